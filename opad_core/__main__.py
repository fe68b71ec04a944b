"""The method without any server: train a concept, generate images of it, evaluate it, export it."""

import argparse
import dataclasses
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from PIL import Image
from tqdm import tqdm

from opad_core import doctor, peak_memory
from opad_core.bases.captions import TEMPLATES
from opad_core.bases.fast_decoder import FAST_DECODER
from opad_core.bases.loading import FETCHED, Base, base_folder, device_named, load_base
from opad_core.bases.manifest import Manifest, read_manifest
from opad_core.bases.metric_networks import METRICS
from opad_core.bases.precision import Precision, precision_for
from opad_core.command_line import command_line, require_output_folders, sentence_of, settings_by_hand
from opad_core.errors import OldCheckpointError, OpadError, UnusableDeviceError
from opad_core.evaluation.curves import draw_losses, read_losses
from opad_core.evaluation.report import report_card
from opad_core.flops import count_iteration
from opad_core.generation.bundle import Bundle, read_bundle
from opad_core.generation.export import EXPORT_FILES, export_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.generation.image_warnings import image_warnings
from opad_core.generation.many_step import STEPS, student_images, teacher_image
from opad_core.generation.prompt_warnings import prompt_warnings
from opad_core.known_answers import (
    Answer,
    Outcome,
    Photos,
    check_weights,
    example_photos,
    known_answers,
    read_photos,
    summary,
)
from opad_core.marked_images import PARTLY_AI_GENERATED, save_marked
from opad_core.methods.opad.config import PRESETS, OpadConfig, Setting, ablated, preset, settings_of
from opad_core.methods.registry import method_config
from opad_core.methods.train import train
from opad_core.output_folder import refuse_to_replace
from opad_core.reference_folder import read_references
from opad_core.reference_images import reads_heic
from opad_core.training.config import TrainingConfig, override
from opad_core.training.loop import Progress, TrainingStopped
from opad_core.training.memory import FLOAT32, HALF, Rung, rung_for, save_memory

BUNDLE, TEACHER, CHECKPOINT = "concept.safetensors", "teacher.safetensors", "checkpoint.safetensors"
PREVIEW = "preview.png"
LOSSES, CURVES, REPORT, SHEET = "losses.jsonl", "loss.png", "report.json", "report.png"
SHOWN = ("rec", "id", "mse", "swd")
"""Losses that the progress bar shows."""
CHECKPOINT_EVERY = 50
"""Iterations between two checkpoints, which is what a power failure can cost."""


def main(argv: list[str] | None = None) -> int:
    arguments = command_line().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may not be UTF-8
    try:
        require_output_folders(arguments)
        return COMMANDS[arguments.command](arguments)
    except UnusableDeviceError as error:
        print(f"opad: --device: {error}", file=sys.stderr)
        return 2
    except (OpadError, OSError) as error:
        print(f"opad: {sentence_of(error)}", file=sys.stderr)
        return 1


def bases_folder() -> Path:
    """Return OPAD_BASES_DIR, else `bases` in the service's data folder (OPAD_HOME or its default)."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    home = os.environ.get("OPAD_HOME") or ("/var/lib/opad" if os.geteuid() == 0 else f"{data}/opad")
    return Path(os.path.expanduser(os.environ.get("OPAD_BASES_DIR") or f"{home}/bases"))


def _base_of(arguments: argparse.Namespace) -> Base:
    """Load the base to generate images with."""
    return _load(arguments, precision_for("generation", arguments.precision, device=device_named(arguments.device)))


def _load(arguments: argparse.Namespace, precision: Precision) -> Base:
    return load_base(arguments.base, bases=bases_folder(), device=arguments.device, precision=precision)


def _rung_of(arguments: argparse.Namespace, config: TrainingConfig, *, resolution: int) -> Rung:
    """Return how a training fits into the device's memory. Raises NotEnoughMemoryError if it does not."""
    return rung_for(
        resolution=resolution,
        batch_size=config.batch_size,
        preset=arguments.preset,
        setting=arguments.precision,
        device=device_named(arguments.device),
    )


def _train(arguments: argparse.Namespace) -> int:
    checkpoint = arguments.out / CHECKPOINT
    if not checkpoint.exists():  # a training that was stopped continues, also if it replaces a finished one
        refuse_to_replace([arguments.out / BUNDLE], force=arguments.force)
    manifest = read_manifest(base_folder(arguments.base, bases_folder()))
    config = _config_of(arguments, manifest)
    rung = _rung_of(arguments, config, resolution=manifest.resolution)
    base = _load(arguments, rung.precision)
    references = _references(arguments.images)
    if manifest.limits:
        print(f"opad: {manifest.limits}", file=sys.stderr)
    if rung.checkpoints_networks:
        print(f"opad: to fit into the GPU's memory, this training uses {rung.summary}", file=sys.stderr)
    base.load("training")
    save_memory(base, rung)
    arguments.out.mkdir(parents=True, exist_ok=True)
    resume = checkpoint.read_bytes() if checkpoint.exists() else None
    losses = [] if resume is None else read_losses(arguments.out / LOSSES)

    def keep_teacher(teacher: bytes) -> None:
        _replace(arguments.out / TEACHER, teacher)

    stops: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    with tqdm(total=config.total_iterations, unit="it", desc="learning") as bar:

        def report(progress: Progress) -> None:
            bar.total = progress.total_steps
            bar.update(progress.step - bar.n)
            shown = {name: f"{progress.losses[-1][name]:.3f}" for name in SHOWN if name in progress.losses[-1]}
            bar.set_postfix(stage=progress.stage, **shown)
            if progress.ended_early is not None:
                bar.write(progress.ended_early)
            # the losses written may be ahead of the checkpoint
            losses[progress.step - len(progress.losses) :] = progress.losses
            if progress.preview is not None:
                save_marked(progress.preview, arguments.out / PREVIEW, {"model": manifest.name})
                _write_losses(arguments.out, losses)
            if progress.step % CHECKPOINT_EVERY == 0:
                _replace(checkpoint, progress.snapshot().to_bytes())

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
                compile_cache=bases_folder().parent / "cache" / "compiled" / "training",
                keep_teacher=keep_teacher if arguments.keep_teacher else None,
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
    if arguments.keep_teacher:
        print(f"the teacher: {arguments.out / TEACHER}, for `python -m opad_core generate --teacher`")
    else:
        (arguments.out / TEACHER).unlink(missing_ok=True)  # of an earlier training that this one replaced
    _write_report(arguments.out, base, read_bundle(bundle), references)
    return 0


def _config_of(arguments: argparse.Namespace, manifest: Manifest) -> TrainingConfig:
    """Return the settings of a training. Raises OpadError for an option of OPAD beside another method."""
    if arguments.method != "opad":
        options = {
            "--ablation": arguments.ablation is not None,
            "--collaborative-iterations": arguments.collaborative_iterations is not None,
            "--keep-teacher": arguments.keep_teacher,
        }
        if given := [option for option, is_given in options.items() if is_given]:
            raise OpadError(f"{given[0]} belongs to the method opad, not to {arguments.method}; leave it out")
    lengths = {name: getattr(arguments, name) for name in ("iterations", "collaborative_iterations")}
    changes = {name: value for name, value in lengths.items() if value is not None}
    config = method_config(arguments.method, manifest, preset=arguments.preset)
    if isinstance(config, OpadConfig):
        config = ablated(config, arguments.ablation)
    return override(config, {**changes, **settings_by_hand(arguments.set)})


def _references(folder: Path) -> list[Image.Image]:
    heic = os.environ.get("OPAD_HEIC", "true").lower() in ("true", "1", "yes", "on", "t", "y")
    return read_references(folder, heic=reads_heic(heic), say=partial(print, file=sys.stderr))


def _write_losses(folder: Path, losses: list[dict[str, float]]) -> None:
    _replace(folder / LOSSES, "".join(json.dumps(row) + "\n" for row in losses).encode())
    draw_losses(losses, folder / CURVES)


def _write_report(folder: Path, base: Base, bundle: Bundle, references: list[Image.Image]) -> None:
    card = report_card(bundle, base, references)
    figures = card.figures()
    _replace(folder / REPORT, (json.dumps(figures, indent=1) + "\n").encode())
    save_marked(card.sheet, folder / SHEET, {"model": base.manifest.name}, source=PARTLY_AI_GENERATED)
    print(f"{'':<16}{'untouched':>10}{'learned':>10}")
    for name, before in asdict(card.untouched).items():
        after = getattr(card.personalised, name)
        if before is not None:
            print(f"{name:<16}{before:>10.3f}{after:>10.3f}")
    if card.fast_identity is not None:
        print(f"identity with the fast decoder: {card.fast_identity:.3f}")
    print(f"before and after: {folder / SHEET}")
    print(card.verdict.sentence)


def _evaluate(arguments: argparse.Namespace) -> int:
    bundle = _bundle_in(arguments.concept)
    out = arguments.out or arguments.concept
    out.mkdir(parents=True, exist_ok=True)
    _write_report(out, _base_of(arguments), bundle, _references(arguments.images))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    refuse_to_replace((arguments.out / name for name in EXPORT_FILES), force=arguments.force)
    files = export_bundle(_bundle_in(arguments.concept), _base_of(arguments), rank=arguments.rank)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _replace(arguments.out / name, content)
        print(f"{arguments.out / name} ({len(content) / 1e3:.0f} kB)")
    about = json.loads(files["export.json"])
    print(f"rank {about['rank']} loses {about['relative_error']:.1%} of what was learned; prompt: {about['trigger']!r}")
    return 0


def _bundle_in(folder: Path) -> Bundle:
    return _read(folder / BUNDLE, "`python -m opad_core train --out` writes one")


def _read(file: Path, remedy: str) -> Bundle:
    if not file.is_file():
        raise OpadError(f"{file.parent} holds no {file.name}; {remedy}")
    return read_bundle(file.read_bytes())


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.count < 1:
        raise OpadError(f"--count must be at least 1, got {arguments.count}")
    if arguments.teacher or arguments.steps not in (None, 1):
        return _generate_in_steps(arguments)
    bundle = None if arguments.concept is None else _bundle_in(arguments.concept)
    files = _image_files(arguments)
    base, noun = _base_of(arguments), bundle.class_noun if bundle else ""
    generator = OneStepGenerator(base)
    for warning in prompt_warnings(base.manifest, base.text, prompt=arguments.prompt, class_noun=noun):
        print(f"opad: {warning}", file=sys.stderr)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = []
    for seed, file in files.items():
        [image] = generator.generate([ImageRequest(bundle, arguments.prompt, seed, arguments.decoder)])
        save_marked(Image.fromarray(image), file, {"model": base.manifest.name, "seed": seed})
        images.append(image)
        print(file)
    for warning in image_warnings(images):
        print(f"opad: {warning}", file=sys.stderr)
    return 0


def _image_files(arguments: argparse.Namespace) -> dict[int, Path]:
    """Return the file of each seed. Raises OpadError as `refuse_to_replace` does."""
    files = {seed: arguments.out / f"{seed}.png" for seed in range(arguments.seed, arguments.seed + arguments.count)}
    refuse_to_replace(files.values(), force=arguments.force)
    return files


def _generate_in_steps(arguments: argparse.Namespace) -> int:
    """Generate with the teacher, or with the student in more than one step."""
    if arguments.decoder != "full":
        raise OpadError("--decoder fast is for one step; leave it out")
    bundle = None
    if arguments.concept is not None:
        remedy = "`python -m opad_core train --keep-teacher` writes one"
        bundle = _read(arguments.concept / TEACHER, remedy) if arguments.teacher else _bundle_in(arguments.concept)
    files = _image_files(arguments)
    base = _base_of(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    guidance = arguments.guidance
    if guidance is None:
        guidance = preset("default", base.manifest.presets).guidance
    for seed, file in tqdm(files.items(), unit="image"):
        if arguments.teacher:
            steps = STEPS if arguments.steps is None else arguments.steps
            image = teacher_image(base, bundle, arguments.prompt, seed, steps=steps, guidance=guidance)
        else:
            [image] = student_images(base, bundle, arguments.prompt, [seed], steps=arguments.steps)
        save_marked(Image.fromarray(image), file, {"model": base.manifest.name, "seed": seed})
        print(file)
    return 0


def _flops(arguments: argparse.Namespace) -> int:
    config = ablated(preset(arguments.preset, {}), arguments.ablation)
    counted = count_iteration(config, resolution=arguments.resolution)
    if arguments.json:
        print(json.dumps(counted))
        return 0
    for part, tera in counted["parts"].items():
        print(f"{part:<16}{tera:8.2f} TFLOP")
    print(f"{'one iteration':<16}{counted['tflop_per_iteration']:8.2f} TFLOP")
    return 0


def _memory(arguments: argparse.Namespace) -> int:
    config = override(preset(arguments.preset, {}), {"batch_size": arguments.batch_size})
    print(peak_memory.HEADER)
    for rung in (*FLOAT32, *HALF):
        print(peak_memory.count_memory(config, rung).line(rung, batch_size=config.batch_size), flush=True)
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    # Imported here because only this command needs an HTTP client.
    from opad_core.bases.fetch.assemble import fetch, open_mirror
    from opad_core.bases.fetch.fast_decoder import fetch_fast_decoder, lacks_fast_decoder
    from opad_core.bases.fetch.metrics import fetch_metrics
    from opad_core.bases.fetch.recipes import RECIPES

    folder = arguments.to or bases_folder() / arguments.base
    if arguments.base == METRICS:
        return fetch_metrics(arguments.mirror, folder, like=arguments.like, say=print)
    mirror = open_mirror(arguments.mirror)
    if lacks_fast_decoder(folder, arguments.base):
        fetch_fast_decoder(mirror, folder, like=arguments.like, say=print)
        print(f"the fast decoder is in {folder / FAST_DECODER}; restart the engines, so that they load it")
        return 0
    like = None if arguments.like is None else read_manifest(arguments.like)
    manifest = fetch(RECIPES[arguments.base], mirror, folder, like=like, say=print)
    try:
        fetch_fast_decoder(mirror, folder, like=arguments.like, say=print)
    except OpadError as error:
        print(f"without the fast decoder, which is optional: {error}. Run the command again to add it")
    name = folder if arguments.to else arguments.base
    print(f"{manifest.name} {manifest.sha256[:12]} is in {folder}; use it with --base {name}, or OPAD_BASE={name}")
    if not arguments.skip_checks:
        print(f"checking the weights, as `python -m opad_core doctor --base {name}` does:")
        answers = known_answers(load_base(str(folder)), _photos(arguments), report=_print_answer)
        print(summary(answers))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    device = device_named(arguments.device)
    if arguments.random_weights and arguments.base != "sd-turbo":
        raise OpadError(f"--random-weights needs --base sd-turbo, got {arguments.base}")
    if arguments.random_weights:
        resolution, base_presets = arguments.resolution or doctor.usual_resolution(device), {}
    else:
        manifest = read_manifest(base_folder(arguments.base, bases_folder()))
        resolution, base_presets = manifest.resolution, manifest.presets
    config = preset(arguments.preset, base_presets)
    if arguments.only_checks:
        return 0 if _check_weights(arguments, config) else 1
    measured = override(config, {"batch_size": 1}) if device.type == "cpu" else config
    rung = _rung_of(arguments, measured, resolution=resolution)
    healthy = arguments.random_weights or arguments.skip_checks or _check_weights(arguments, config)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.random_weights:
            base = doctor.random_base(Path(folder), device, resolution=resolution, precision=rung.precision)
        else:
            base = _load(arguments, rung.precision)
        print(f"{base.manifest.name}, {resolution} px, batch {measured.batch_size}, {base.device}, {rung.summary}\n")
        print(doctor.HEADER)
        doctor.examine(base, measured, rung, report=lambda row: print(row.line(), flush=True))
    return 0 if healthy else 1


def _check_weights(arguments: argparse.Namespace, config: OpadConfig) -> bool:
    """Print the answers to all checks of a base's weights, and return whether none failed."""
    resolution = read_manifest(base_folder(arguments.base, bases_folder())).resolution
    answers = check_weights(
        partial(_load, arguments),
        partial(_rung_of, arguments, config, resolution=resolution),
        _photos(arguments),
        config,
        precision="half" if arguments.precision == "half" else "float32",
        report=_print_answer,
    )
    print(f"{summary(answers)}\n")
    return all(answer.outcome != Outcome.FAILED for answer in answers)


def _photos(arguments: argparse.Namespace) -> list[Photos]:
    return example_photos() if arguments.images is None else read_photos(arguments.images)


def _print_answer(answer: Answer) -> None:
    print(answer.line(), flush=True)


def _tables(arguments: argparse.Namespace) -> int:
    # Imported here because only this command needs the tables.
    from opad_core.tables.command import run_command

    run_command(arguments, bases=bases_folder(), say=print)
    return 0


def _presets(arguments: argparse.Namespace) -> int:
    base_presets, templates = _described(arguments.base)
    columns = []
    for name in PRESETS:
        settings = settings_of(name, base_presets)
        cells = [f"{_shown(setting, templates)} ({setting.set_by})" for setting in settings]
        columns.append((name, settings, cells, max(map(len, cells))))
    first = max(len(constant.name) for constant in dataclasses.fields(OpadConfig))
    names = "  ".join(f"{name:<{width}}" for name, _, _, width in columns)
    print(f"{'on ' + arguments.base:<{first}}  {names}  source")
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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "generate": _generate,
    "evaluate": _evaluate,
    "export": _export,
    "doctor": _doctor,
    "fetch": _fetch,
    "presets": _presets,
    "flops": _flops,
    "memory": _memory,
    "tables": _tables,
}

if __name__ == "__main__":
    sys.exit(main())
