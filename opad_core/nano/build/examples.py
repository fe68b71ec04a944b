"""Stage `examples`: example concepts, from drawings that no network was trained on.

The eight concepts in `examples/` have names for users. Twelve more in `bench/` are only for evaluation.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from opad_core.nano.build.own_drawings import draw_beach_ball, draw_mug, draw_robot
from opad_core.nano.build.scenes import draw_scene
from opad_core.nano.build.sprites import patterned, tint
from opad_core.nano.build.stage import Build
from opad_core.nano.build.vocabulary import HELD_OUT, NOUNS
from opad_core.nano.build.world import Pose, place

_SIDE = 256
_BENCH_SIDE = 128
_SCENES = ("white", "grass", "wood", "beach")
# One pose per scene, like a camera that is nearer, farther or tilted, within the limits of the base (decision 10).
_POSES = (Pose(), Pose(46, tilt=3), Pose(50, tilt=-3), Pose(47, tilt=-2))
_BENCH = {
    "service_dog": ("dog", "fluent:1f415-200d-1f9ba"),
    "flat_poodle": ("dog", "noto:1f429"),
    "black_cat": ("cat", "noto:1f408-200d-2b1b"),
    "white_rabbit": ("rabbit", "fluent:1f407"),
    "parrot": ("bird", "noto:1f99c"),
    "chick": ("bird", "fluent:1f425"),
    "reef_fish": ("fish", "noto:1f420"),
    "blowfish": ("fish", "fluent:1f421"),
    "flat_taxi": ("car", "noto:1f695"),
    "sun_hat": ("hat", "noto:1f452"),
    "long_neck": ("dinosaur", "noto:1f995"),
    "trolleybus": ("bus", "fluent:1f68e"),
}


def draw_examples(build: Build) -> None:
    """Write examples/NAME/{0..3}.png and class.txt to the build folder, and the same for bench/."""
    load = partial(build.drawing, build.folder)
    for seed, (name, (noun, views)) in enumerate(_examples(load).items()):
        _draw(build.folder / "examples" / name, noun, views, np.random.default_rng([build.seed, seed]), _SIDE)
    for seed, (name, (noun, drawing)) in enumerate(_BENCH.items()):
        assert drawing in HELD_OUT[noun], drawing
        rng = np.random.default_rng([build.seed, 1000 + seed])
        _draw(build.folder / "bench" / name, noun, [load(drawing)] * len(_SCENES), rng, _BENCH_SIDE)


def _draw(folder: Path, noun: str, views: list[Image.Image], rng: np.random.Generator, side: int) -> None:
    assert noun in NOUNS, noun
    folder.mkdir(parents=True, exist_ok=True)
    for index, (scene, pose, sprite) in enumerate(zip(_SCENES, _POSES, views, strict=True)):
        background = draw_scene(scene, rng).resize((side, side), Image.Resampling.BICUBIC)
        place(background, sprite, rng, pose, floating=False).save(folder / f"{index}.png")
    (folder / "class.txt").write_text(noun + "\n")


def _examples(load: Callable[[str], Image.Image]) -> dict[str, tuple[str, list[Image.Image]]]:
    """Return the class noun of each example, and a view of it per image."""
    flat = {
        "dotted_backpack": ("backpack", patterned(tint(load("noto:1f392"), 0.48), "dots", (250, 214, 70))),
        "poodle": ("dog", load("fluent:1f429")),
        "violet_cat": ("cat", load("fluent:1f408-200d-2b1b")),
        "taxi": ("car", load("fluent:1f695")),
        "blue_teapot": ("teapot", patterned(tint(load("noto:1fad6"), 0.6), "dots", (245, 245, 250))),
        "striped_mug": ("mug", draw_mug()),
        "orange_robot": ("robot", draw_robot()),
    }
    turned = [draw_beach_ball(turn) for turn in (0.0, 0.35, 0.7, 1.05)]
    return {**{name: (noun, [sprite] * 4) for name, (noun, sprite) in flat.items()}, "beach_ball": ("ball", turned)}


def stand_in(folder: Path, name: str) -> Image.Image:
    """Return one of two of this project's own drawings, in a color that depends on the name. For the smoke build."""
    del folder
    number = sum(name.encode())
    return tint((draw_mug, draw_robot)[number % 2](), number / 7 % 1)
