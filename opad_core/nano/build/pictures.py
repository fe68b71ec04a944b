"""Stage `world`: render the pictures once and keep them with their captions and labels."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from opad_core.nano.build.architecture import RESOLUTION
from opad_core.nano.build.stage import Build, write_sheet
from opad_core.nano.build.vocabulary import COLOURS, DRAWINGS, NOUNS, SCENES
from opad_core.nano.build.world import Sample, World

_CHUNK = 100  # pictures that a process draws at a time
_world: World  # of one such process


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
    total, first = build.counts["pictures"], build.seed * 10_000_000
    chunks = [range(first + at, first + min(at + _CHUNK, total)) for at in range(0, total, _CHUNK)]
    desc = "world, aligned" if aligned else "world"
    arguments = (partial(build.drawing, build.folder),)
    with (
        tqdm(total=total, desc=desc, mininterval=5) as bar,
        ProcessPoolExecutor(os.cpu_count(), initializer=_start_drawing, initargs=arguments) as processes,
    ):
        for samples in processes.map(partial(_draw, aligned=aligned), chunks):
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
            bar.update(len(samples))
    np.save(build.file("pictures.npy", aligned=aligned), np.stack(pictures))
    build.file("captions.json", aligned=aligned).write_text(json.dumps(captions))
    sheet = np.stack(pictures[: len(pictures) // 16 * 16][:160]).reshape(-1, 16, RESOLUTION, RESOLUTION, 3)
    write_sheet(build.file("world.png", aligned=aligned), sheet)
    labels = dict(zip(("noun", "drawing", "colour", "scene"), np.array(rows).T, strict=True))
    np.savez(build.file("labels.npz", aligned=aligned), **labels)


def _start_drawing(load: Callable[[str], Image.Image]) -> None:
    """In a process of its own: the world that `_draw` draws from."""
    global _world
    _world = World(load)


def _draw(seeds: range, *, aligned: bool) -> list[Sample]:
    return [_world.render(seed, aligned=aligned) for seed in seeds]
