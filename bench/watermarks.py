"""`python -m bench.watermarks FOLDER...`: how well the invisible watermarks of public libraries survive.

The folders have openly licensed photographs. Crops of 512 px get a random payload of 32 bits, are changed, and are
read. docs/decisions/0036-no-invisible-watermark.md names the photographs, and the command that installs the libraries,
which are not part of the product. OUT gets a line of JSON for each image, so an
interrupted survey continues.
"""

import argparse
import contextlib
import io
import json
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from bench.encode import psnr

Pixels = NDArray[np.uint8]
"""RGB, [height, width, 3]"""
Bits = NDArray[np.uint8]

SIDE = 512
SUFFIXES = {".jpg", ".jpeg", ".png"}
PAYLOAD = 32
FALSE_POSITIVES = 1e-6
NEEDED_RATE = 0.95
"""A mark survives an attack if it is found in this share of the images."""
DOUBT = 1e-6
FEWEST = 24
"""A watermark is dropped after this many images or more, once an attack is lost: the chance that it would still reach
NEEDED_RATE is at most DOUBT."""
TRIES = 2
"""A reader tries the image as it is, and resized to SIDE, because the verifier knows which size was generated."""


class Watermark(Protocol):
    def embed(self, image: Pixels, payload: Bits) -> Pixels: ...

    def matches(self, image: Pixels, payload: Bits) -> bool:
        """Return whether the payload is found in the image."""
        ...


def needed_bits() -> int:
    """Return how many bits must be equal, so that an unmarked image counts as marked with at most FALSE_POSITIVES.

    The payload is drawn uniformly and independently of the image. So each bit of an unmarked image is equal with
    probability 1/2, whatever the detector reads, and the number of equal bits is Binomial(PAYLOAD, 1/2). With TRIES
    readings the probability is at most TRIES * sum over k >= m of C(PAYLOAD, k) / 2^PAYLOAD.
    """
    return next(m for m in range(PAYLOAD + 1) if false_positives(m) <= FALSE_POSITIVES)


def false_positives(needed: int) -> float:
    return float(TRIES * sum(comb(PAYLOAD, k) for k in range(needed, PAYLOAD + 1)) / 2**PAYLOAD)


def equal_enough(found: Bits, payload: Bits) -> bool:
    return len(found) == PAYLOAD and int((found == payload).sum()) >= needed_bits()


class Imwatermark:
    """invisible-watermark, with one of its three methods."""

    def __init__(self, method: str) -> None:
        from imwatermark import WatermarkDecoder, WatermarkEncoder

        self._method = method
        self._encoder, self._decoder = WatermarkEncoder(), WatermarkDecoder("bits", PAYLOAD)
        if method == "rivaGan":
            WatermarkEncoder.loadModel()

    def embed(self, image: Pixels, payload: Bits) -> Pixels:
        self._encoder.set_watermark("bits", payload.tolist())
        bgr = np.ascontiguousarray(image[..., ::-1])
        return np.ascontiguousarray(self._encoder.encode(bgr, self._method)[..., ::-1]).astype(np.uint8)

    def matches(self, image: Pixels, payload: Bits) -> bool:
        found = self._decoder.decode(np.ascontiguousarray(image[..., ::-1]), self._method)
        return equal_enough(np.asarray(found).astype(np.uint8), payload)


class BlindWatermark:
    """blind-watermark."""

    def __init__(self) -> None:
        import blind_watermark  # noqa: F401  # sets how processes start, which fails once something else has

    def embed(self, image: Pixels, payload: Bits) -> Pixels:
        mark = _blind_watermark()
        mark.read_img(img=np.ascontiguousarray(image[..., ::-1]))
        mark.read_wm(payload.astype(bool), mode="bit")
        return np.ascontiguousarray(np.clip(mark.embed().round(), 0, 255).astype(np.uint8)[..., ::-1])

    def matches(self, image: Pixels, payload: Bits) -> bool:
        found = _blind_watermark().extract(
            embed_img=np.ascontiguousarray(image[..., ::-1]), wm_shape=PAYLOAD, mode="bit"
        )  # fmt: skip
        return equal_enough((np.asarray(found) >= 0.5).astype(np.uint8), payload)


def _blind_watermark() -> Any:
    from blind_watermark import WaterMark

    with contextlib.redirect_stdout(io.StringIO()):
        return WaterMark(password_wm=1, password_img=1)


class _WithoutOptimizers(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return SimpleNamespace if module.startswith("torch.optim") else super().find_class(module, name)


class SteganoGan:
    """SteganoGAN, dense. It hides a text with its own error correction, so it is found whole or not at all."""

    def __init__(self) -> None:
        import steganogan

        file = Path(steganogan.__file__).parent / "pretrained/dense.steg"
        # written by PyTorch 1.0; this one cannot read the state of its optimizers, which are not needed here
        reader = SimpleNamespace(Unpickler=_WithoutOptimizers, load=pickle.load, __name__="pickle")
        self._network = torch.load(file, map_location="cpu", weights_only=False, pickle_module=reader)
        for part in (self._network.encoder, self._network.decoder, self._network.critic):
            part.upgrade_legacy()
        with contextlib.redirect_stdout(io.StringIO()):
            self._network.set_device(cuda=False)

    def embed(self, image: Pixels, payload: Bits) -> Pixels:
        with _png(image) as file, torch.inference_mode():
            self._network.encode(str(file), str(file), _text(payload))
            return np.asarray(Image.open(file).convert("RGB"))

    def matches(self, image: Pixels, payload: Bits) -> bool:
        with _png(image) as file, torch.inference_mode():
            try:
                return bool(self._network.decode(str(file)) == _text(payload))
            except ValueError:  # its word for "no message"
                return False


@contextlib.contextmanager
def _png(image: Pixels) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        Image.fromarray(image).save(file, compress_level=1)
        yield file


def _text(payload: Bits) -> str:
    return np.packbits(payload).tobytes().hex()


@dataclass(frozen=True)
class Candidate:
    label: str
    license: str
    load: Callable[[], Watermark]


CANDIDATES: Mapping[str, Candidate] = {
    "dwtDct": Candidate("invisible-watermark 0.2.0, dwtDct", "MIT", lambda: Imwatermark("dwtDct")),
    "dwtDctSvd": Candidate("invisible-watermark 0.2.0, dwtDctSvd", "MIT", lambda: Imwatermark("dwtDctSvd")),
    "rivaGan": Candidate("invisible-watermark 0.2.0, rivaGan", "MIT", lambda: Imwatermark("rivaGan")),
    "blind-watermark": Candidate("blind-watermark 0.4.4", "MIT", BlindWatermark),
    "steganogan": Candidate("SteganoGAN 0.1.3, dense", "MIT", SteganoGan),
}


def nothing(image: Pixels, random: np.random.Generator) -> Pixels:
    return image


def jpeg_75(image: Pixels, random: np.random.Generator) -> Pixels:
    return jpeg(image, 75)


def half(image: Pixels, random: np.random.Generator) -> Pixels:
    return resized(image, image.shape[1] // 2, image.shape[0] // 2)


def crop_tenth(image: Pixels, random: np.random.Generator) -> Pixels:
    """Keep nine tenths of each side, at a random place."""
    return cropped(image, 0.9, random)


def screenshot(image: Pixels, random: np.random.Generator) -> Pixels:
    """Resize by .8-1.25, shift by up to 3 px, crop 2 % of each side, JPEG 85."""
    factor = random.uniform(0.8, 1.25)
    image = resized(image, round(image.shape[1] * factor), round(image.shape[0] * factor))
    across, down = random.integers(-3, 4, 2)
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    image = padded[3 + down : 3 + down + image.shape[0], 3 + across : 3 + across + image.shape[1]]
    return jpeg(cropped(image, 0.98, random), 85)


ATTACKS: Mapping[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "none": nothing,
    "JPEG 75": jpeg_75,
    "half size": half,
    "cropped by a tenth": crop_tenth,
    "screenshot": screenshot,
}


def jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(image: Pixels, width: int, height: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def cropped(image: Pixels, share: float, random: np.random.Generator) -> Pixels:
    height, width = (round(side * share) for side in image.shape[:2])
    top, left = (
        int(random.integers(0, side - kept + 1)) for side, kept in zip(image.shape, (height, width), strict=False)
    )
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def detected(mark: Watermark, image: Pixels, payload: Bits) -> bool:
    if image.shape[0] * image.shape[1] >= 256 * 256 and mark.matches(image, payload):
        return True
    return image.shape != (SIDE, SIDE, 3) and mark.matches(resized(image, SIDE, SIDE), payload)


@cache
def photograph(file: Path) -> Image.Image:
    return Image.open(file).convert("RGB")


def crop(folders: list[Path], number: int) -> tuple[Pixels, np.random.Generator]:
    """Return a crop and a generator. Photographs take turns; place and size, at least SIDE, are random."""
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    random = np.random.default_rng([7, number])
    image = photograph(files[number % len(files)])
    side = round(min(image.size) * random.uniform(min(1.0, SIDE / min(image.size)), 1))
    left, top = (int(random.integers(0, whole - side + 1)) for whole in image.size)
    chosen = image.crop((left, top, left + side, top + side))
    return np.asarray(chosen.resize((SIDE, SIDE), Image.Resampling.LANCZOS)), random


def cannot_pass(found: list[bool]) -> bool:
    """Return whether a detection rate of NEEDED_RATE would give so few detections with at most DOUBT probability."""
    count, hits = len(found), sum(found)
    tail = sum(comb(count, k) * NEEDED_RATE**k * (1 - NEEDED_RATE) ** (count - k) for k in range(hits + 1))
    return tail <= DOUBT


def measure(mark: Watermark, image: Pixels, random: np.random.Generator) -> dict[str, Any]:
    """Mark an image, change it, and read it."""
    payload = random.integers(0, 2, PAYLOAD).astype(np.uint8)
    started = time.perf_counter()
    marked = mark.embed(image, payload)
    embedded = time.perf_counter()
    found = {"none": detected(mark, marked, payload)}
    read = time.perf_counter()
    changes = {attack: change for attack, change in ATTACKS.items() if attack != "none"}
    found |= {attack: detected(mark, change(marked, random), payload) for attack, change in changes.items()}
    return {
        "found": found,
        "unmarked": detected(mark, image, payload),
        "psnr": round(psnr(marked, image), 2),
        "embed_ms": round(1000 * (embedded - started), 1),
        "read_ms": round(1000 * (read - embedded), 1),
    }


def survey(name: str, mark: Watermark, folders: list[Path], count: int, file: Path, *, drop: bool) -> None:
    """Measure the images that the file lacks, and append a line of JSON for each."""
    known = read_lines(file)
    with file.open("a") as lines:
        for number in tqdm(range(len(known), count), initial=len(known), total=count, desc=name):
            if drop and number >= FEWEST and any(map(cannot_pass, found_by_attack(known).values())):
                break
            known.append(measure(mark, *crop(folders, number)))
            print(json.dumps(known[-1]), file=lines, flush=True)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def found_by_attack(images: list[dict[str, Any]]) -> dict[str, list[bool]]:
    return {attack: [image["found"][attack] for image in images] for attack in ATTACKS}


def row(name: str, images: list[dict[str, Any]]) -> str:
    candidate = CANDIDATES[name]
    rates = " | ".join(f"{100 * fmean(found):.1f} %" for found in found_by_attack(images).values())
    unmarked = 100 * fmean(image["unmarked"] for image in images)
    noise = [image["psnr"] for image in images]
    embed, read = (median(image[key] for image in images) for key in ("embed_ms", "read_ms"))
    return (
        f"| {candidate.label} | {candidate.license} | {len(images)} | {rates} | {unmarked:.1f} % "
        f"| {fmean(noise):.1f} ({min(noise):.1f}) | {embed:.0f} / {read:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photographs")
    parser.add_argument("--images", type=int, default=500, help="most crops for each (default %(default)s)")
    parser.add_argument("--no-drop", action="store_true", help="also measure the rest of a watermark that cannot pass")
    names = list(CANDIDATES)
    parser.add_argument("--candidates", nargs="+", default=names, choices=names, help="watermarks (default: all)")
    parser.add_argument("--out", type=Path, default=Path("build/watermarks"), help="folder of the results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    marks = {name: CANDIDATES[name].load() for name in arguments.candidates}  # before anything sets how processes start
    rows = []
    for name, mark in marks.items():
        file = arguments.out / f"{name}.jsonl"
        survey(name, mark, arguments.folders, arguments.images, file, drop=not arguments.no_drop)
        rows.append(row(name, read_lines(file)))
    print(f"found: {needed_bits()} of {PAYLOAD} bits; false positives at most {false_positives(needed_bits()):.1e}")
    attacks = " | ".join(ATTACKS)
    print(f"| watermark | license | images | {attacks} | found unmarked | PSNR mean (least), dB | ms embed / read |")
    print("|---" * (len(ATTACKS) + 6) + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
