"""Stage `world`: render all images once and save them with their captions and labels."""

import json
from functools import partial

import numpy as np
from numpy.typing import NDArray

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.processes import render_all
from opad_core.nano.build.stage import Build, write_sheet
from opad_core.nano.build.vocabulary import COLORS, DRAWINGS, NOUNS, SCENES
from opad_core.nano.build.world import Sample, World


def build_world(build: Build) -> None:
    """Write both sets of images with captions.json and labels.npz (noun, drawing, colour, scene; -1 is none).

    The autoencoder and the feature networks train on freely placed objects, teacher and student on objects on the grid
    of latents.
    """
    build.drawing(build.folder, DRAWINGS[NOUNS[0]][0])  # fetches all drawings once, before several processes ask
    for aligned in (False, True):
        if not build.file("labels.npz", aligned=aligned).exists():
            _render(build, aligned=aligned)


def _render(build: Build, *, aligned: bool) -> None:
    images: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    nouns, scenes, colors = list(NOUNS), list(SCENES), list(COLORS)
    drawings = [drawing for all_drawings in DRAWINGS.values() for drawing in all_drawings]
    first = build.seed * 10_000_000
    samples = render_all(
        partial(_render_one, aligned=aligned),
        range(first, first + build.counts["images"]),
        partial(build.drawing, build.folder),
        label="world, aligned" if aligned else "world",
    )
    for sample in samples:
        images.append(sample.pixels)
        captions.append(sample.caption)
        rows.append(
            (
                nouns.index(sample.noun) if sample.noun else -1,
                drawings.index(sample.drawing) if sample.drawing else -1,
                colors.index(sample.color) if sample.color else -1,
                scenes.index(sample.scene),
            )
        )
    np.save(build.file("pictures.npy", aligned=aligned), np.stack(images))
    build.file("captions.json", aligned=aligned).write_text(json.dumps(captions))
    sheet = np.stack(images[: len(images) // 16 * 16][:160]).reshape(-1, 16, RESOLUTION, RESOLUTION, 3)
    write_sheet(build.file("world.png", aligned=aligned), sheet)
    labels = dict(zip(("noun", "drawing", "colour", "scene"), np.array(rows).T, strict=True))
    np.savez(build.file("labels.npz", aligned=aligned), **labels)


def _render_one(world: World, seed: int, *, aligned: bool) -> Sample:
    return world.render(seed, aligned=aligned)
