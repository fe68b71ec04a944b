"""`python -m bench.marks`: what marks cost, in milliseconds of one thread and bytes per image.

Both ways of each format are timed in turn in one run; a line has the medians.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

from api.domain.credentials import make_credentials
from api.domain.provenance import Marks, Provenance
from api.domain.settings import Settings
from bench.encode import images
from worker.inference.encoding import MEDIA_TYPES
from worker.inference.marking import Marking

ORIGIN = Provenance("nano", None, "0" * 64, 7)
WAYS: tuple[Marks, ...] = ("off", "xmp", "signed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="images of each kind (default %(default)s)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        make_credentials(settings.signing_certificates, settings.signing_key)
        markings = {
            way: Marking.of(settings.model_copy(update={"provenance": way}), resolution=512) for way in WAYS
        }  # fmt: skip
        print("| image | format | ms off / xmp / signed | bytes off / xmp / signed |\n|---|---|---|---|")
        for label, pixels in images().items():
            for image_format in MEDIA_TYPES:
                times: dict[str, list[float]] = {way: [] for way in WAYS}
                sizes = {}
                for _ in range(rounds):
                    for way, marking in markings.items():
                        before = time.perf_counter()
                        sizes[way] = len(marking.file(pixels, image_format, ORIGIN))
                        times[way].append(1000 * (time.perf_counter() - before))
                milliseconds = " / ".join(f"{median(times[way]):.2f}" for way in WAYS)
                print(f"| {label} | {image_format} | {milliseconds} | {' / '.join(str(sizes[way]) for way in WAYS)} |")


if __name__ == "__main__":
    main()
