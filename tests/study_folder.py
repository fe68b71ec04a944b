"""The folder of a small user study, with the methods' names wherever a careless tool could leave them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

METHODS = {"alpha": "Alpha Method", "beta": "Beta Method", "gamma": "Gamma Method"}
PROMPTS = ("on the beach", "in the snow", "at night", "on the grass")


def write_study(folder: Path) -> dict[str, Any]:
    """Write two concepts, four prompts each, three methods. Return what `study.json` holds.

    A method has one file for all groups, because decoding a file takes a third of a second.
    """
    files = {method: f"images/{method}/{number}.png" for number, method in enumerate(METHODS)}
    for number, (method, file) in enumerate(files.items()):
        save(folder / file, (200, 80 * number, 40), made_by=method)
    references = ["references/0.jpg", "references/1.jpg"]
    for number, file in enumerate(references):
        save(folder / file, (90 * number, 80, 200))
    nouns = ("mug", "dog")
    study = {
        "format": 1,
        "title": "Mugs and dogs",
        "methods": [{"name": name, "label": label} for name, label in METHODS.items()],
        "concepts": [{"name": f"my {noun}", "class_noun": noun, "references": references} for noun in nouns],
        "groups": [
            {"concept": f"my {noun}", "prompt": f"a {noun} {where}", "images": files}
            for noun in nouns
            for where in PROMPTS
        ],
    }
    describe(folder, study)
    return study


def describe(folder: Path, study: Any) -> None:
    (folder / "study.json").write_text(json.dumps(study))


def save(file: Path, color: tuple[int, int, int], *, made_by: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (64, 64), color)
    if made_by is None:
        image.save(file)
    else:
        words = PngInfo()
        words.add_text("Software", made_by)
        image.save(file, pnginfo=words)
