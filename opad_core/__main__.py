"""`python -m opad_core train | generate | presets`: the method without any server."""

import argparse
import dataclasses
import json
import signal
import sys
from pathlib import Path
from types import FrameType

from PIL import Image
from tqdm import tqdm

from opad_core.bases import load_base
from opad_core.bundle import read_bundle
from opad_core.config import ABLATIONS, PRESETS, OpadConfig, override, preset
from opad_core.data import read_references
from opad_core.errors import OpadError
from opad_core.flops import count_iteration
from opad_core.generation import ImageRequest, OneStepGenerator
from opad_core.training import Progress, TrainingStopped, train

BUNDLE, CHECKPOINT, PREVIEW = "concept.safetensors", "checkpoint.safetensors", "preview.png"
SHOWN = ("rec", "id", "mse", "swd")
"""Losses on the progress bar."""
CHECKPOINT_EVERY = 50
"""Iterations; what an interrupted power supply may cost."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m opad_core", description=__doc__)
    commands = parser.add_subparsers(required=True)

    learn = commands.add_parser("train", help="learn a concept from 3-5 photos; run it again to go on after a stop")
    learn.add_argument("--images", type=Path, required=True, help="folder of 3-5 photos (JPEG, PNG, WebP)")
    learn.add_argument("--class", dest="class_noun", required=True, help="what the thing is, for instance dog")
    learn.add_argument("--out", type=Path, required=True, help="folder for the bundle, previews and checkpoints")
    learn.add_argument("--preset", default="default", choices=list(PRESETS))
    learn.add_argument("--ablation", choices=list(ABLATIONS), help="take one part of the method away")
    learn.add_argument("--iterations", type=int, help="of the distillation stage")
    learn.add_argument("--collaborative-iterations", type=int)
    learn.add_argument("--seed", type=int, default=0)
    learn.set_defaults(run=_train)

    draw = commands.add_parser("generate", help="pictures of a learned concept, one diffusion step each")
    draw.add_argument(
        "--concept", type=Path, help="folder that `train` wrote; without it the untouched student answers"
    )
    draw.add_argument("--prompt", required=True, help='for instance "a <concept> on the beach"')
    draw.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    draw.add_argument("--count", type=int, default=1)
    draw.add_argument("--seed", type=int, default=0, help="of the first picture; the next take the next numbers")
    draw.set_defaults(run=_generate)

    for command in (learn, draw):
        command.add_argument("--base", default="nano", help="name of a base or path of its folder")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")

    show = commands.add_parser("presets", help="every setting of the method in each preset")
    show.set_defaults(run=_presets)

    flops = commands.add_parser("flops", help="what one iteration costs at full size, counted without weights")
    flops.add_argument("--base", default="sd-turbo", choices=["sd-turbo"])
    flops.add_argument("--preset", default="default", choices=list(PRESETS))
    flops.add_argument("--ablation", choices=list(ABLATIONS))
    flops.add_argument("--resolution", type=int, default=512, help="pixels")
    flops.add_argument("--json", action="store_true")
    flops.set_defaults(run=_flops)

    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except OpadError as error:
        print(f"opad: {error}", file=sys.stderr)
        return 1


def _train(arguments: argparse.Namespace) -> int:
    base = load_base(arguments.base, device=arguments.device)
    references = read_references(arguments.images)
    changes = {
        name: value
        for name in ("iterations", "collaborative_iterations")
        if (value := getattr(arguments, name)) is not None
    }
    without = ABLATIONS[arguments.ablation] if arguments.ablation else {}
    config = override(preset(arguments.preset, base.manifest.presets), {**without, **changes})
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / CHECKPOINT
    resume = checkpoint.read_bytes() if checkpoint.exists() else None

    stops: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with tqdm(total=config.total_iterations, unit="it", desc="learning") as bar:

        def report(progress: Progress) -> None:
            bar.update(progress.step - bar.n)
            shown = {name: f"{progress.losses[name]:.3f}" for name in SHOWN if name in progress.losses}
            bar.set_postfix(stage=progress.stage, **shown)
            if progress.preview is not None:
                progress.preview.save(arguments.out / PREVIEW)
            if progress.step % CHECKPOINT_EVERY == 0:
                _replace(checkpoint, progress.save())

        try:
            bundle = train(
                base,
                references,
                arguments.class_noun,
                config,
                seed=arguments.seed,
                report=report,
                should_stop=lambda: bool(stops),
                resume=resume,
            )
        except TrainingStopped as stopped:
            _replace(checkpoint, stopped.state)
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            return 130
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    _replace(arguments.out / BUNDLE, bundle)
    checkpoint.unlink(missing_ok=True)
    print(f"learned: {arguments.out / BUNDLE} ({len(bundle) / 1e6:.1f} MB); a look: {arguments.out / PREVIEW}")
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise OpadError(f"--count must be at least 1, got {arguments.count}")
    bundle = None
    if arguments.concept is not None:
        file = arguments.concept / BUNDLE
        if not file.is_file():
            raise OpadError(f"{arguments.concept} holds no {BUNDLE}; `python -m opad_core train --out` writes one")
        bundle = read_bundle(file.read_bytes())
    generator = OneStepGenerator(load_base(arguments.base, device=arguments.device))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        [picture] = generator.generate([ImageRequest(bundle, arguments.prompt, seed)])
        file = arguments.out / f"{seed}.png"
        Image.fromarray(picture).save(file)
        print(file)
    return 0


def _flops(arguments: argparse.Namespace) -> int:
    without = ABLATIONS[arguments.ablation] if arguments.ablation else {}
    counted = count_iteration(override(preset(arguments.preset, {}), without), resolution=arguments.resolution)
    if arguments.json:
        print(json.dumps(counted))
        return 0
    for part, tera in counted["parts"].items():
        print(f"{part:<16}{tera:8.2f} TFLOP")
    print(f"{'one iteration':<16}{counted['tflop_per_iteration']:8.2f} TFLOP")
    return 0


def _presets(arguments: argparse.Namespace) -> int:
    configs = {name: preset(name, {}) for name in PRESETS}
    print(f"{'setting':<26}" + "".join(f"{name:<28}" for name in configs))
    for setting in dataclasses.fields(OpadConfig):
        values = [str(getattr(config, setting.name)) for config in configs.values()]
        print(f"{setting.name:<26}" + "".join(f"{value:<28}" for value in values))
    return 0


def _replace(file: Path, data: bytes) -> None:
    """Whole or not at all: a stop in the middle leaves the file as it was."""
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main())
