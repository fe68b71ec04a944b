"""`python -m opad_core.nano.build STAGE`: train the nano base from random weights, in stages that can resume."""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from opad_core.nano.build.adapting import adapt_student, adapt_teacher
from opad_core.nano.build.autoencoder import train_vae
from opad_core.nano.build.classifier import evaluate_base
from opad_core.nano.build.decoder import train_decoder
from opad_core.nano.build.examples import draw_examples, stand_in
from opad_core.nano.build.features import train_clip, train_dino, train_dinov2
from opad_core.nano.build.images import build_world
from opad_core.nano.build.pack import pack
from opad_core.nano.build.recipe import CPU, GPU, SMOKE
from opad_core.nano.build.scene_judge import train_judge
from opad_core.nano.build.stage import Build
from opad_core.nano.build.student import train_coding
from opad_core.nano.build.teacher import train_teacher

STAGES: dict[str, Callable[[Build], None]] = {
    "world": build_world,
    "vae": train_vae,
    "clip": train_clip,
    "dinov2": train_dinov2,
    "dino": train_dino,
    "coding": train_coding,
    "teacher": train_teacher,
    "adapt_teacher": adapt_teacher,
    "adapt_student": adapt_student,
    "decoder": train_decoder,
    "pack": pack,
    "examples": draw_examples,
    "judge": train_judge,
}

_ON_CPU = ("world", "pack", "examples", "judge")


def build_folder() -> Path:
    """Return OPAD_BUILD_DIR, by default a folder below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("OPAD_BUILD_DIR") or cache / "opad" / "build")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m opad_core.nano.build", description=__doc__)
    parser.add_argument(
        "stage",
        choices=[*STAGES, "all", "smoke", "evaluate"],
        help="stage to train, all of them, a short trial of all, or an evaluation",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="evaluate: not used")
    parser.add_argument("--seed", type=int, default=0, help="seed of the build")
    parser.add_argument("--base", default="nano", help="evaluate: the base to score, by name or folder")
    parser.add_argument("--images", type=int, default=1040, help="evaluate: number of images from each network")
    parser.add_argument("--json", action="store_true", help="evaluate: print the scores on one line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.stage == "smoke":
        with tempfile.TemporaryDirectory() as folder:
            smoke(Path(folder), arguments.seed, device=arguments.device)
        return
    build = Build(build_folder(), CPU if arguments.device == "cpu" else GPU, arguments.seed)
    build.folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "evaluate":
        scores = evaluate_base(build, arguments.base, images=arguments.images)
        print(json.dumps(scores, indent=None if arguments.json else 1))
        return
    run(build, list(STAGES) if arguments.stage == "all" else [arguments.stage], device=arguments.device)


def smoke(folder: Path, seed: int = 0, *, device: str = "cpu") -> None:
    """Run every stage with tiny counts in `folder`. Uses this project's own drawings and fetches nothing."""
    run(Build(folder, SMOKE, seed, stand_in), list(STAGES), device=device)


def run(build: Build, stages: list[str], *, device: str = "cpu") -> None:
    """Run the stages. Networks and their images are on `device`; the stages that only write files use the CPU."""
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, no change on a CPU
    for stage in stages:
        with torch.device("cpu" if stage in _ON_CPU else device):
            STAGES[stage](build)


if __name__ == "__main__":
    main()
