"""Stage `world`: render the pictures once and keep them with their captions and labels."""

import json
from functools import partial

import numpy as np
from tqdm import tqdm

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.stage import Build, write_sheet
from opad_core.nano.build.vocabulary import COLOURS, DRAWINGS, NOUNS, SCENES
from opad_core.nano.build.world import World


def build_world(build: Build) -> None:
    """Write both sets of pictures with captions.json and labels.npz (noun, drawing, colour, scene; -1 = none).

    The autoencoder and the feature networks see objects placed freely, teacher and student see them on the grid.
    """
    world = World(partial(build.drawing, build.folder))
    for aligned in (False, True):
        if not build.file("labels.npz", aligned=aligned).exists():
            _render(build, world, aligned=aligned)


def _render(build: Build, world: World, *, aligned: bool) -> None:
    count = build.counts["pictures"]
    pictures = np.empty((count, RESOLUTION, RESOLUTION, 3), np.uint8)
    captions: list[str] = []
    labels = np.empty((4, count), np.int64)
    nouns, scenes, colours = list(NOUNS), list(SCENES), list(COLOURS)
    drawings = [drawing for all_drawings in DRAWINGS.values() for drawing in all_drawings]
    for index in tqdm(range(count), desc="world, aligned" if aligned else "world", mininterval=5):
        sample = world.render(build.seed * 10_000_000 + index, aligned=aligned)
        pictures[index] = sample.pixels
        captions.append(sample.caption)
        labels[:, index] = (
            nouns.index(sample.noun) if sample.noun else -1,
            drawings.index(sample.drawing) if sample.drawing else -1,
            colours.index(sample.colour) if sample.colour else -1,
            scenes.index(sample.scene),
        )
    np.save(build.file("pictures.npy", aligned=aligned), pictures)
    build.file("captions.json", aligned=aligned).write_text(json.dumps(captions))
    sheet = pictures[: count // 16 * 16][:160].reshape(-1, 16, RESOLUTION, RESOLUTION, 3)
    write_sheet(build.file("world.png", aligned=aligned), sheet)
    np.savez(
        build.file("labels.npz", aligned=aligned),
        noun=labels[0], drawing=labels[1], colour=labels[2], scene=labels[3],
    )  # fmt: skip
