"""Stage `world`: render the pictures once and keep them with their captions and labels."""

import json
from functools import partial

import numpy as np
from numpy.typing import NDArray

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.processes import draw_all
from opad_core.nano.build.stage import Build, write_sheet
from opad_core.nano.build.vocabulary import COLOURS, DRAWINGS, NOUNS, SCENES
from opad_core.nano.build.world import Sample, World


def build_world(build: Build) -> None:
    """Write both sets of pictures with captions.json and labels.npz (noun, drawing, colour, scene; -1 = none).

    The autoencoder and the feature networks see objects placed freely, teacher and student see them on the grid.
    """
    build.drawing(build.folder, DRAWINGS[NOUNS[0]][0])  # fetched once, before several processes ask for them
    for aligned in (False, True):
        if not build.file("labels.npz", aligned=aligned).exists():
            _render(build, aligned=aligned)


def _render(build: Build, *, aligned: bool) -> None:
    pictures: list[NDArray[np.uint8]] = []
    captions: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    nouns, scenes, colours = list(NOUNS), list(SCENES), list(COLOURS)
    drawings = [drawing for all_drawings in DRAWINGS.values() for drawing in all_drawings]
    first = build.seed * 10_000_000
    samples = draw_all(
        partial(_draw, aligned=aligned),
        range(first, first + build.counts["pictures"]),
        partial(build.drawing, build.folder),
        label="world, aligned" if aligned else "world",
    )
    for sample in samples:
        pictures.append(sample.pixels)
        captions.append(sample.caption)
        rows.append(
            (
                nouns.index(sample.noun) if sample.noun else -1,
                drawings.index(sample.drawing) if sample.drawing else -1,
                colours.index(sample.colour) if sample.colour else -1,
                scenes.index(sample.scene),
            )
        )
    np.save(build.file("pictures.npy", aligned=aligned), np.stack(pictures))
    build.file("captions.json", aligned=aligned).write_text(json.dumps(captions))
    sheet = np.stack(pictures[: len(pictures) // 16 * 16][:160]).reshape(-1, 16, RESOLUTION, RESOLUTION, 3)
    write_sheet(build.file("world.png", aligned=aligned), sheet)
    labels = dict(zip(("noun", "drawing", "colour", "scene"), np.array(rows).T, strict=True))
    np.savez(build.file("labels.npz", aligned=aligned), **labels)


def _draw(world: World, seed: int, *, aligned: bool) -> Sample:
    return world.render(seed, aligned=aligned)
