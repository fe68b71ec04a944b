"""The method without any server: train a concept, generate images of it, evaluate it, export it."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, get_args

from PIL import Image
from tqdm import tqdm

from opad_core import doctor
from opad_core.bases.captions import TEMPLATES
from opad_core.bases.loading import (
    FETCHED,
    Base,
    Precision,
    base_folder,
    device_named,
    load_base,
)
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OldCheckpointError, OpadError
from opad_core.evaluation.curves import draw_losses, read_losses
from opad_core.evaluation.report import report_card
from opad_core.flops import count_iteration
from opad_core.generation.bundle import Bundle, read_bundle
from opad_core.generation.export import DEFAULT_RANK, export_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import ABLATIONS, PRESETS, OpadConfig, Setting, preset, settings_of
from opad_core.methods.train import train
from opad_core.training.config import override
from opad_core.training.loop import Progress, TrainingStopped
from opad_core.training.references import MAX_REFERENCES, MIN_REFERENCES, read_references

BUNDLE, CHECKPOINT, PREVIEW = "concept.safetensors", "checkpoint.safetensors", "preview.png"
LOSSES, CURVES, REPORT, SHEET = "losses.jsonl", "loss.png", "report.json", "report.png"
SHOWN = ("rec", "id", "mse", "swd")
"""Losses that the progress bar shows."""
CHECKPOINT_EVERY = 50
"""Iterations between two checkpoints, which is what a power failure can cost."""
PRESET_HELP = "the published settings, or ours; `presets` prints both"
REFERENCES_HELP = f"{MIN_REFERENCES}-{MAX_REFERENCES} photos (JPEG, PNG, WebP), 3-5 recommended"


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m opad_core", description=__doc__)
    commands = parser.add_subparsers(required=True)

    train_ = commands.add_parser("train", help="learn a concept from photos; continues a training that was stopped")
    train_.add_argument("--images", type=Path, required=True, help=f"folder of {REFERENCES_HELP}")
    train_.add_argument("--class", dest="class_noun", required=True, help="what the photos show, for instance dog")
    train_.add_argument("--out", type=Path, required=True, help="folder for the bundle, previews and checkpoints")
    train_.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    train_.add_argument("--ablation", choices=list(ABLATIONS), help="remove one part of the method")
    train_.add_argument("--iterations", type=int, help="iterations of the distillation stage")
    train_.add_argument(
        "--collaborative-iterations",
        type=int,
        help="iterations of the collaborative stage; 0 is the training of the paper's tables",
    )
    train_.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a setting that `presets` prints"
    )
    train_.add_argument("--seed", type=int, default=0, help="the same seed gives the same bundle on the same machine")
    train_.set_defaults(run=_train)

    generate = commands.add_parser("generate", help="generate images of a learned concept, one diffusion step each")
    generate.add_argument("--concept", type=Path, help="folder that `train` wrote; default: the untouched student")
    generate.add_argument("--prompt", required=True, help='for instance "a <concept> on the beach"')
    generate.add_argument("--out", type=Path, required=True, help="folder for the images")
    generate.add_argument("--count", type=int, default=1, help="number of images")
    generate.add_argument("--seed", type=int, default=0, help="seed of the first image; the others count up from it")
    generate.set_defaults(run=_generate)

    evaluate = commands.add_parser("evaluate", help="score a learned concept beside the untouched student")
    evaluate.add_argument("--concept", type=Path, required=True, help="folder that `train` wrote")
    evaluate.add_argument("--images", type=Path, required=True, help=f"folder of {REFERENCES_HELP}")
    evaluate.add_argument("--out", type=Path, help="folder for report.json and report.png; default: the concept's")
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser("export", help="write files that diffusers, ComfyUI and kohya's tools load")
    export.add_argument("--concept", type=Path, required=True, help="folder that `train` wrote")
    export.add_argument("--out", type=Path, required=True, help="folder for the files")
    export.add_argument("--rank", type=int, default=DEFAULT_RANK, help="LoRA rank; export.json has its relative error")
    export.set_defaults(run=_export, precision="float32")

    doctor_ = commands.add_parser("doctor", help="run the whole method once on a base and report what each part costs")
    doctor_.add_argument("--random-weights", action="store_true", help="SD-Turbo at full size, without any download")
    doctor_.add_argument("--resolution", type=int, help="pixels of random weights; default: 512 on a GPU, else 256")
    doctor_.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    doctor_.set_defaults(run=_doctor, precision="float32")

    for command in (train_, generate, evaluate, export, doctor_):
        command.add_argument("--base", default="nano", help="name of a base or path of its folder")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    for command in (train_, generate, evaluate):
        command.add_argument(
            "--precision", default="float32", choices=get_args(Precision), help="half needs two thirds of the memory"
        )

    fetch = commands.add_parser("fetch", help="download a base from the hub or a mirror; continues a stopped download")
    fetch.add_argument("base", choices=list(FETCHED), help="the second has SD 2.1-base as its teacher")
    fetch.add_argument("--to", type=Path, help="folder of the base; default: where --base NAME finds it")
    fetch.add_argument(
        "--from",
        dest="mirror",
        help="folder or s3://bucket/prefix with <owner>/<name>/<files>, or another hub's address",
    )
    fetch.add_argument(
        "--like", type=Path, help="folder with the manifest.json of an earlier fetch; the hashes must be equal"
    )
    fetch.set_defaults(run=_fetch)

    presets = commands.add_parser("presets", help="print every setting of a training, its source, and who set it")
    presets.add_argument("--base", default="nano", help="name of a base or path of its folder")
    presets.set_defaults(run=_presets)

    flops = commands.add_parser("flops", help="count the operations of one iteration at full size, without weights")
    flops.add_argument("--base", default="sd-turbo", choices=["sd-turbo"], help="whose networks are counted")
    flops.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    flops.add_argument("--ablation", choices=list(ABLATIONS), help="remove one part of the method")
    flops.add_argument("--resolution", type=int, default=512, help="pixels")
    flops.add_argument("--json", action="store_true", help="print JSON")
    flops.set_defaults(run=_flops)

    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = command_line().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except OpadError as error:
        print(f"opad: {error}", file=sys.stderr)
        return 1


def bases_folder() -> Path:
    """Return OPAD_BASES_DIR, else `bases` in the service's data folder (OPAD_HOME or its default)."""
    if chosen := os.environ.get("OPAD_BASES_DIR"):
        return Path(chosen)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "opad"
    home = os.environ.get("OPAD_HOME") or ("/var/lib/opad" if os.geteuid() == 0 else data)
    return Path(home) / "bases"


def _base_of(arguments: argparse.Namespace) -> Base:
    return load_base(
        arguments.base, bases=bases_folder(), device=arguments.device, precision=arguments.precision
    )  # fmt: skip


def _train(arguments: argparse.Namespace) -> int:
    base = _base_of(arguments)
    references = read_references(arguments.images)
    changes = {
        name: value
        for name in ("iterations", "collaborative_iterations")
        if (value := getattr(arguments, name)) is not None
    }
    without = ABLATIONS[arguments.ablation] if arguments.ablation else {}
    config = override(
        preset(arguments.preset, base.manifest.presets), {**without, **changes, **_set_by_hand(arguments.set)}
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / CHECKPOINT
    resume = checkpoint.read_bytes() if checkpoint.exists() else None
    losses = [] if resume is None else read_losses(arguments.out / LOSSES)

    stops: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with tqdm(total=config.total_iterations, unit="it", desc="learning") as bar:

        def report(progress: Progress) -> None:
            bar.update(progress.step - bar.n)
            shown = {name: f"{progress.losses[name]:.3f}" for name in SHOWN if name in progress.losses}
            bar.set_postfix(stage=progress.stage, **shown)
            losses[progress.step - 1 :] = [progress.losses]  # the losses written may be ahead of the checkpoint
            if progress.preview is not None:
                progress.preview.save(arguments.out / PREVIEW)
                _write_losses(arguments.out, losses)
            if progress.step % CHECKPOINT_EVERY == 0:
                _replace(checkpoint, progress.save())

        def learn(state: bytes | None) -> bytes:
            return train(
                base,
                references,
                arguments.class_noun,
                config,
                seed=arguments.seed,
                report=report,
                should_stop=lambda: bool(stops),
                resume=state,
            )

        try:
            try:
                bundle = learn(resume)
            except OldCheckpointError as error:
                bar.write(f"{error}; the training starts again", file=sys.stderr)
                losses.clear()
                bundle = learn(None)
        except TrainingStopped as stopped:
            _replace(checkpoint, stopped.state)
            _write_losses(arguments.out, losses)
            print("\nstopped; run the same command to continue", file=sys.stderr)
            return 130
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    _replace(arguments.out / BUNDLE, bundle)
    checkpoint.unlink(missing_ok=True)
    print(f"learned: {arguments.out / BUNDLE} ({len(bundle) / 1e6:.1f} MB)")
    _write_report(arguments.out, base, read_bundle(bundle), references)
    return 0


def _set_by_hand(assignments: list[str]) -> dict[str, Any]:
    """Parse `--set FIELD=VALUE`: a value is JSON, or text where it is not valid JSON."""
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise OpadError(f"--set takes FIELD=VALUE, got {assignment!r}")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def _write_losses(folder: Path, losses: list[dict[str, float]]) -> None:
    _replace(folder / LOSSES, "".join(json.dumps(row) + "\n" for row in losses).encode())
    draw_losses(losses, folder / CURVES)


def _write_report(folder: Path, base: Base, bundle: Bundle, references: list[Image.Image]) -> None:
    card = report_card(bundle, base, references)
    figures = card.figures()
    _replace(folder / REPORT, (json.dumps(figures, indent=1) + "\n").encode())
    card.sheet.save(folder / SHEET)
    print(f"{'':<16}{'untouched':>10}{'learned':>10}")
    for name, before in asdict(card.untouched).items():
        after = getattr(card.personalised, name)
        if before is not None:
            print(f"{name:<16}{before:>10.3f}{after:>10.3f}")
    print(f"before and after: {folder / SHEET}")


def _evaluate(arguments: argparse.Namespace) -> int:
    bundle = _bundle_in(arguments.concept)
    out = arguments.out or arguments.concept
    out.mkdir(parents=True, exist_ok=True)
    base = _base_of(arguments)
    _write_report(out, base, bundle, read_references(arguments.images))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    files = export_bundle(_bundle_in(arguments.concept), _base_of(arguments),
                   rank=arguments.rank)  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _replace(arguments.out / name, content)
        print(f"{arguments.out / name} ({len(content) / 1e3:.0f} kB)")
    about = json.loads(files["export.json"])
    print(f"rank {about['rank']} loses {about['relative_error']:.1%} of what was learned; prompt: {about['trigger']!r}")
    return 0


def _bundle_in(folder: Path) -> Bundle:
    file = folder / BUNDLE
    if not file.is_file():
        raise OpadError(f"{folder} holds no {BUNDLE}; `python -m opad_core train --out` writes one")
    return read_bundle(file.read_bytes())


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise OpadError(f"--count must be at least 1, got {arguments.count}")
    bundle = None if arguments.concept is None else _bundle_in(arguments.concept)
    generator = OneStepGenerator(_base_of(arguments))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        [image] = generator.generate([ImageRequest(bundle, arguments.prompt, seed)])
        file = arguments.out / f"{seed}.png"
        Image.fromarray(image).save(file)
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


def _fetch(arguments: argparse.Namespace) -> int:
    # Imported here because only this command needs an HTTP client.
    from opad_core.bases.fetch.assemble import fetch, open_mirror
    from opad_core.bases.fetch.recipes import RECIPES

    folder = arguments.to or bases_folder() / arguments.base
    like = None if arguments.like is None else read_manifest(arguments.like)
    manifest = fetch(RECIPES[arguments.base], open_mirror(arguments.mirror), folder, like=like, say=print)
    name = folder if arguments.to else arguments.base
    print(f"{manifest.name} {manifest.sha256[:12]} is in {folder}; use it with --base {name}, or OPAD_BASE={name}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.random_weights:
            base = _base_of(arguments)
        elif arguments.base == "sd-turbo":
            device = device_named(arguments.device)
            base = doctor.random_base(Path(folder), device, resolution=arguments.resolution)
        else:
            raise OpadError(f"--random-weights needs --base sd-turbo, got {arguments.base}")
        config = preset(arguments.preset, base.manifest.presets)
        if base.device.type == "cpu":
            config = override(config, {"batch_size": 1})
        print(f"{base.manifest.name}, {base.manifest.resolution} px, batch {config.batch_size}, {base.device}\n")
        print(doctor.HEADER)
        doctor.examine(base, config, report=lambda row: print(row.line(), flush=True))
    return 0


def _presets(arguments: argparse.Namespace) -> int:
    base_presets, templates = _described(arguments.base)
    columns = []
    for name in PRESETS:
        settings = settings_of(name, base_presets)
        cells = [f"{_shown(setting, templates)} ({setting.set_by})" for setting in settings]
        columns.append((name, settings, cells, max(map(len, cells))))
    first = max(len(constant.name) for constant in dataclasses.fields(OpadConfig))
    print(
        f"{'on ' + arguments.base:<{first}}  {'  '.join(f'{name:<{width}}' for name, _, _, width in columns)}  source"
    )
    for row, setting in enumerate(columns[0][1]):
        values = "  ".join(f"{cells[row]:<{width}}" for _, _, cells, width in columns)
        sources = dict.fromkeys(settings[row].source for _, settings, _, _ in columns)
        print(f"{setting.name:<{first}}  {values}  {'; '.join(sources)}")
    for name in PRESETS:
        prompts = preset(name, base_presets).templates or templates
        print(f"\ntemplates of {name}: {'; '.join(prompts)}")
    return 0


def _shown(setting: Setting, templates: list[str]) -> str:
    """Format a value for the table."""
    value = setting.value
    if setting.name == "templates":
        return f"{len(value or templates)} prompts, below"
    if setting.name == "initializer_word":
        return value or "class noun"
    if isinstance(value, tuple):
        return "-".join(f"{x:.4g}" for x in value) if len(value) == 2 else ", ".join(f"{x:g}" for x in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _described(name: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return a base's presets and templates; a base that is not fetched yet has those of its future manifest."""
    if name in FETCHED and not (bases_folder() / name / "manifest.json").is_file():
        return {}, list(TEMPLATES)
    manifest = read_manifest(base_folder(name, bases_folder()))
    return manifest.presets, manifest.templates


def _replace(file: Path, data: bytes) -> None:
    """Write a file atomically: an interruption leaves the old content."""
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(file)


if __name__ == "__main__":
    sys.exit(main())
