"""`python -m bench.image_check FOLDER...`: false alarms of the image check on harmless images, and its time.

The folders have harmless photographs; docs/decisions/0036-no-invisible-watermark.md names some. The check scores crops
of them, and images of the nano base of each object that it knows.
"""

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from PIL import Image
from tqdm import tqdm

from api.domain.image_scorer import load_scorer
from api.domain.settings import Settings
from bench.watermarks import Pixels, crop
from opad_core import Base, load_base
from opad_core.__main__ import bases_folder
from opad_core.generation.generator import ImageRequest, OneStepGenerator

CHUNK = 20


def generated(base: Base, count: int) -> Iterator[Pixels]:
    """Yield images of the untouched student: each class noun in turn, in each scene that the base knows."""
    nouns, scenes = base.manifest.nouns or ["cat"], base.manifest.caption_scenes
    prompts = [scenes[k // len(nouns) % len(scenes)].format(nouns[k % len(nouns)]) for k in range(count)]
    for start in range(0, count, CHUNK):
        requests = [ImageRequest(None, prompt, start + k) for k, prompt in enumerate(prompts[start : start + CHUNK])]
        yield from OneStepGenerator(base).generate(requests)


def png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of harmless photographs")
    parser.add_argument("--images", type=int, default=500, help="images of each kind (default %(default)s)")
    arguments = parser.parse_args()
    settings = Settings()
    scorer, limit = load_scorer(settings.image_scorer), settings.image_check_limit
    base = load_base("nano", bases=bases_folder())
    kinds = {
        "crops of photographs, 512 px": (crop(arguments.folders, number)[0] for number in range(arguments.images)),
        "images of nano, 64 px": generated(base, arguments.images),
    }
    print(f"| images | n | score >= {limit} | >= 0.5 | highest | ms an image |\n|---|---:|---:|---:|---:|---:|")
    for label, images in kinds.items():
        scores, times = [], []
        for pixels in tqdm(images, total=arguments.images, desc=label):
            file = png(pixels)
            before = time.perf_counter()
            scores.append(scorer(file))
            times.append(1000 * (time.perf_counter() - before))
        alarms, half = (sum(score >= bound for score in scores) for bound in (limit, 0.5))
        print(f"| {label} | {len(scores)} | {alarms} | {half} | {max(scores):.3f} | {median(times):.0f} |")


if __name__ == "__main__":
    main()
