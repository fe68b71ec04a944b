"""`python -m opad_core.nano.build STAGE`: train the nano base from nothing, stage by stage, resumable at any step."""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from opad_core.nano.build.adapting import adapt_student, adapt_teacher
from opad_core.nano.build.autoencoder import train_vae
from opad_core.nano.build.classifier import judge_base
from opad_core.nano.build.decoder import train_decoder
from opad_core.nano.build.examples import draw_examples, stand_in
from opad_core.nano.build.features import train_clip, train_dino, train_dinov2
from opad_core.nano.build.images import build_world
from opad_core.nano.build.pack import pack
from opad_core.nano.build.recipe import CPU, GPU, SMOKE
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
}

_ON_CPU = ("world", "pack", "examples")


def build_folder() -> Path:
    """OPAD_BUILD_DIR, by default below the user's cache folder. May be lost between sittings."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("OPAD_BUILD_DIR") or cache / "opad" / "build")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m opad_core.nano.build", description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "all", "smoke", "judge"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="the judge: cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", default="nano", help="judge: the base to score, by name or folder")
    parser.add_argument("--pictures", type=int, default=1040, help="judge: how many of each network")
    parser.add_argument("--json", action="store_true", help="judge: the scores on one line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    if arguments.stage == "smoke":
        with tempfile.TemporaryDirectory() as folder:
            smoke(Path(folder), arguments.seed, device=arguments.device)
        return
    build = Build(build_folder(), CPU if arguments.device == "cpu" else GPU, arguments.seed)
    build.folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "judge":
        scores = judge_base(build, arguments.base, pictures=arguments.pictures)
        print(json.dumps(scores, indent=None if arguments.json else 1))
        return
    run(build, list(STAGES) if arguments.stage == "all" else [arguments.stage], device=arguments.device)


def smoke(folder: Path, seed: int = 0, *, device: str = "cpu") -> None:
    """Every stage with tiny counts and this project's own drawings, into `folder`; fetches nothing."""
    run(Build(folder, SMOKE, seed, stand_in), list(STAGES), device=device)


def run(build: Build, stages: list[str], *, device: str = "cpu") -> None:
    """Networks and their pictures live on `device`; what is written is written from the CPU."""
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU; as it was on a CPU
    for stage in stages:
        with torch.device("cpu" if stage in _ON_CPU else device):
            STAGES[stage](build)


if __name__ == "__main__":
    main()
