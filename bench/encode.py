"""Measure image encoders on one core: `python bench/encode.py`.

Three images: a photo of 512 px (a sample of matplotlib's), a reference of `examples/` enlarged to 512 px, which is
smooth, and one of 64 px, as the nano base generates them. For each encoder: the least and the median time, the size of
the file, and how far the pixels are from the original. Ours includes the XMP metadata, the others write none. An
encoder whose package is not installed is left out; the service needs none of them.
"""

import argparse
import importlib
import io
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from uuid import UUID

import matplotlib
import numpy as np
from PIL import Image

from api.domain.provenance import Provenance
from worker.inference.encoding import encode

Encoder = Callable[[np.ndarray], bytes]

EXAMPLE = Path(__file__).parents[1] / "examples" / "striped_mug" / "0.png"
PROVENANCE = Provenance("nano", UUID(int=7), "0" * 64, 7)


def images() -> dict[str, np.ndarray]:
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    example = Image.open(EXAMPLE).convert("RGB")
    return {
        "photo, 512 px": np.asarray(photo.convert("RGB").crop((0, 0, 512, 512))),
        "enlarged, 512 px": np.asarray(example.resize((512, 512), Image.Resampling.BICUBIC)),
        "small, 64 px": np.asarray(example.resize((64, 64), Image.Resampling.LANCZOS)),
    }


def encoders() -> dict[str, Encoder]:
    found: dict[str, Encoder] = {
        "png, ours": lambda pixels: encode(pixels, "png", PROVENANCE),
        "png, Pillow, level 1": _pillow("png", compress_level=1),
        "png, Pillow, level 6": _pillow("png", compress_level=6),
        "jpeg, ours": lambda pixels: encode(pixels, "jpeg", PROVENANCE),
        "webp, ours": lambda pixels: encode(pixels, "webp", PROVENANCE),
        "webp, Pillow, method 2": _pillow("webp", quality=90, method=2),
    }
    if cv2 := _installed("cv2"):
        cv2.setNumThreads(1)
        found |= {
            "png, OpenCV, level 1": _opencv(cv2, ".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
            "jpeg, OpenCV": _opencv(cv2, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 92),
            "webp, OpenCV": _opencv(cv2, ".webp", cv2.IMWRITE_WEBP_QUALITY, 90),
        }
    if imagecodecs := _installed("imagecodecs"):
        found |= {
            "png, imagecodecs, level 1": lambda pixels: imagecodecs.png_encode(pixels, level=1),
            "jpeg, imagecodecs": lambda pixels: imagecodecs.jpeg8_encode(pixels, level=92, subsampling="420"),
        }
    if simplejpeg := _installed("simplejpeg"):
        found["jpeg, simplejpeg"] = lambda pixels: simplejpeg.encode_jpeg(
            pixels, quality=92, colorsubsampling="420", fastdct=False
        )
    return dict(sorted(found.items()))


def _installed(name: str) -> ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def _pillow(image_format: str, **options: int) -> Encoder:
    def write(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, image_format, **options)
        return file.getvalue()

    return write


def _opencv(cv2: ModuleType, suffix: str, option: int, value: int) -> Encoder:
    def write(pixels: np.ndarray) -> bytes:
        return bytes(cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [option, value])[1])

    return write


def measure(write: Encoder, pixels: np.ndarray, *, seconds: float) -> list[float]:
    """Return the milliseconds of each call, after a first one that is not counted."""
    write(pixels)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        before = time.perf_counter()
        write(pixels)
        times.append(1000 * (time.perf_counter() - before))
    return times


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two images [h, w, 3] uint8 in dB; infinity for equal ones."""
    error = float(np.mean((one.astype(float) - other) ** 2))
    return 10 * math.log10(255**2 / error) if error else math.inf


def loss(file: bytes, pixels: np.ndarray) -> str:
    noise = psnr(np.asarray(Image.open(io.BytesIO(file)).convert("RGB")), pixels)
    return "exact" if noise == math.inf else f"{noise:.1f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="per encoder and image (default %(default)s)")
    arguments = parser.parse_args()
    candidates = encoders()
    for label, pixels in images().items():
        print(f"\n{label:<28}{'min ms':>9}{'p50 ms':>9}{'KB':>9}  pixels")
        for name, write in candidates.items():
            times, file = measure(write, pixels, seconds=arguments.seconds), write(pixels)
            print(
                f"{name:<28}{min(times):9.2f}{statistics.median(times):9.2f}{len(file) / 1000:9.1f}"
                f"  {loss(file, pixels)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
