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
    """Write pictures.npy, captions.json and labels.npz (noun, drawing, colour, scene as indices; -1 = none)."""
    if (build.folder / "labels.npz").exists():
        return
    world = World(partial(build.drawing, build.folder))
    count = build.counts["pictures"]
    pictures = np.empty((count, RESOLUTION, RESOLUTION, 3), np.uint8)
    captions: list[str] = []
    labels = np.empty((4, count), np.int64)
    nouns, scenes, colours = list(NOUNS), list(SCENES), list(COLOURS)
    drawings = [drawing for all_drawings in DRAWINGS.values() for drawing in all_drawings]
    for index in tqdm(range(count), desc="world", mininterval=5):
        sample = world.render(build.seed * 10_000_000 + index)
        pictures[index] = sample.pixels
        captions.append(sample.caption)
        labels[:, index] = (
            nouns.index(sample.noun) if sample.noun else -1,
            drawings.index(sample.drawing) if sample.drawing else -1,
            colours.index(sample.colour) if sample.colour else -1,
            scenes.index(sample.scene),
        )
    np.save(build.folder / "pictures.npy", pictures)
    (build.folder / "captions.json").write_text(json.dumps(captions))
    write_sheet(
        build.folder / "world.png", pictures[: count // 16 * 16][:160].reshape(-1, 16, RESOLUTION, RESOLUTION, 3)
    )
    np.savez(build.folder / "labels.npz", noun=labels[0], drawing=labels[1], colour=labels[2], scene=labels[3])
