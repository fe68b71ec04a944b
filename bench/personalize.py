"""`python -m bench.personalize`: compare OPAD with stripped Custom Diffusion on many concepts.

For every concept three students generate images of held-out scenes from the same seeds: the untouched student, OPAD by
the preset, and a student whose K/V and V* learned from the reconstruction loss alone, with prompts without scenes and
as many iterations of the same batch size (`bench.compare.custom_diffusion_stripped`). Identity is
`opad_core.evaluation.identity`; the build's classifier recognizes the scenes. Results are kept per concept in
OUT/NAME.json and OUT/NAME.png, so an interrupted benchmark continues with the next concept.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.compare import custom_diffusion_stripped, learn
from opad_core import (
    Base,
    Bundle,
    ImageRequest,
    OneStepGenerator,
    OpadConfig,
    held_out_scenes,
    identity_score,
    load_base,
    override,
    preset,
    read_references,
)
from opad_core.__main__ import bases_folder
from opad_core.evaluation.sheet import FAINT, GAP, INK, MARGIN, PAPER
from opad_core.nano.build.__main__ import build_folder
from opad_core.nano.build.classifier import PROMPT_SCENES, classify_scenes
from opad_core.nano.build.recipe import CPU
from opad_core.nano.build.stage import Build
from opad_core.nano.build.vocabulary import SCENE_PROMPTS
from opad_core.pixels import squared

TILE = 96
SEEDS = (0, 1)


def measure(base: Base, folder: Path, config: OpadConfig, build: Build, out: Path) -> dict[str, Any]:
    """Return the figures of one concept, and save its strip of the contact sheet to OUT/NAME.png."""
    references, noun = read_references(folder), (folder / "class.txt").read_text().strip()
    started = time.monotonic()
    bundle = learn(base, references, noun, config)
    seconds = time.monotonic() - started
    stripped = learn(base, references, noun, custom_diffusion_stripped(config))
    generator = OneStepGenerator(base)
    scenes = held_out_scenes(base, references, noun)
    result: dict[str, Any] = {"concept": folder.name, "class": noun, "train_seconds": round(seconds)}
    columns = []
    for name, learned in (("untouched", None), ("opad", bundle), ("custom_diffusion_stripped", stripped)):
        images = generate(generator, learned, scenes, noun)
        result[name] = {
            "identity": round(identity_score([Image.fromarray(p) for p in images], references), 4),
            "scene_top1": round(scene_accuracy(build, images, scenes), 3),
        }
        columns.append([Image.fromarray(images[k]) for k in (0, 4, 9, 15)])
    strip(folder.name, references, columns, result).save(out / f"{folder.name}.png")
    return result


def generate(generator: OneStepGenerator, bundle: Bundle | None, scenes: list[str], noun: str) -> NDArray[np.uint8]:
    """Generate every scene prompt with every seed; seeds are the outer order."""
    placeholder = noun if bundle is None else "<concept>"
    requests = [
        ImageRequest(bundle, scene.format(placeholder), 1000 * seed + index)
        for seed in SEEDS
        for index, scene in enumerate(scenes)
    ]
    return np.concatenate([generator.generate(requests[i : i + 16]) for i in range(0, len(requests), 16)])


def scene_accuracy(build: Build, images: NDArray[np.uint8], scenes: list[str]) -> float:
    """Return the share of the images in which the classifier finds the scene of the prompt."""
    places = dict(zip(SCENE_PROMPTS, PROMPT_SCENES, strict=True))
    expected = [places[scene] for scene in scenes] * len(SEEDS)
    return float(np.mean([n == e for n, e in zip(classify_scenes(build, images), expected, strict=True)]))


def strip(name: str, references: list[Image.Image], columns: list[list[Image.Image]], result: dict[str, Any]
          ) -> Image.Image:  # fmt: skip
    """Return a row of tiles with figures below: references, untouched, OPAD, stripped Custom Diffusion."""
    groups = [[squared(r, keep_aspect=True) for r in references[:3]], *columns]
    step = TILE + GAP // 2
    width = 2 * MARGIN + sum(len(group) * step + 2 * GAP for group in groups) - 2 * GAP
    image = Image.new("RGB", (width, TILE + 34), PAPER)
    pen = ImageDraw.Draw(image)
    labels = [name] + [f"identity {result[k]['identity']:.2f}, scene {result[k]['scene_top1']:.2f}"
                       for k in ("untouched", "opad", "custom_diffusion_stripped")]  # fmt: skip
    left = MARGIN
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        for tile in group:
            image.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, 4))
            left += step
        pen.text((left - len(group) * step, TILE + 8), label, FAINT if number else INK, ImageFont.load_default(15))
        left += 2 * GAP
    return image


def contact_sheet(strips: list[Path]) -> Image.Image:
    images = [Image.open(path) for path in strips]
    width = max(p.width for p in images)
    sheet = Image.new("RGB", (width, sum(p.height for p in images) + MARGIN + 30), PAPER)
    pen = ImageDraw.Draw(sheet)
    step, left = TILE + GAP // 2, MARGIN
    for heading, count in (
        ("references", 3),
        ("the untouched student", 4),
        ("OPAD", 4),
        ("Custom Diffusion, stripped", 4),
    ):
        pen.text((left, 14), heading, INK, ImageFont.load_default(17))
        left += count * step + 2 * GAP
    top = MARGIN + 14
    for p in images:
        sheet.paste(p, (0, top))
        top += p.height
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--concepts", type=Path, default=Path("examples"), help="folder with a folder of photos per concept"
    )
    parser.add_argument("--out", type=Path, default=Path("build/personalize"), help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these concepts of the folder")
    parser.add_argument("--base", default="nano", help="name of a base or path of its folder")
    parser.add_argument("--preset", default="default", help="preset of OPAD")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON", help="change a setting")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = load_base(arguments.base, bases=bases_folder())
    changes = {name: json.loads(value) for name, value in (text.split("=", 1) for text in arguments.set)}
    config = override(preset(arguments.preset, base.manifest.presets), changes)
    build = Build(build_folder(), CPU)
    folders = sorted(path.parent for path in arguments.concepts.glob("*/class.txt"))
    folders = [folder for folder in folders if not arguments.only or folder.name in arguments.only]
    for folder in folders:
        kept = arguments.out / f"{folder.name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measure(base, folder, config, build, arguments.out)))
        print(kept.read_text(), flush=True)
    results = [json.loads((arguments.out / f"{folder.name}.json").read_text()) for folder in folders]
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    contact_sheet([arguments.out / f"{folder.name}.png" for folder in folders]).save(arguments.out / "sheet.png")


if __name__ == "__main__":
    main()
