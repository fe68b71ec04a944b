"""`python bench/one_image.py`: measure the cold start of a base, and one image on one core."""

import json
import statistics
import subprocess
import sys
import time

_LOAD = """
import time; started = time.perf_counter()
import torch; torch.set_num_threads(1)
from opad_core import ImageRequest, OneStepGenerator, load_base
imported = time.perf_counter()
generator = OneStepGenerator(load_base("nano", device="cpu"))
generator.generate([ImageRequest(None, "a dog on the beach", 0)])
loaded = time.perf_counter()
times = []
for seed in range(100):
    before = time.perf_counter()
    generator.generate([ImageRequest(None, "a dog on the beach", seed)])
    times.append(1000 * (time.perf_counter() - before))
import json; print(json.dumps({"import_s": imported - started, "load_s": loaded - imported, "image_ms": times}))
"""


def main() -> None:
    started = time.perf_counter()
    answer = json.loads(subprocess.run([sys.executable, "-c", _LOAD], check=True, capture_output=True).stdout)
    times = sorted(answer["image_ms"])
    print(
        json.dumps(
            {
                "import_s": round(answer["import_s"], 2),
                "load_and_first_image_s": round(answer["load_s"], 2),
                "image_ms_p50": round(statistics.median(times), 1),
                "image_ms_p95": round(times[94], 1),
                "all_s": round(time.perf_counter() - started, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
