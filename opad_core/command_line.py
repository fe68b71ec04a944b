"""The options of `python -m opad_core`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

from opad_core.bases.loading import FETCHED
from opad_core.bases.metric_networks import METRICS
from opad_core.bases.precision import PrecisionSetting
from opad_core.errors import OpadError
from opad_core.generation.export import DEFAULT_RANK
from opad_core.generation.generator import DecoderName
from opad_core.generation.many_step import STEPS
from opad_core.methods.opad.config import ABLATIONS, PRESETS
from opad_core.methods.registry import METHODS
from opad_core.output_folder import require_output_folder
from opad_core.reference_folder import shown
from opad_core.reference_images import MAX_REFERENCES, MIN_REFERENCES, formats, reads_heic
from opad_core.tables.protocols import PROTOCOLS

DESCRIPTION = """The method without any server: train a concept, generate images of it, evaluate it, export it."""
PRESET_HELP = "the published settings, or ours; `presets` prints both"
REFERENCES_HELP = f"{MIN_REFERENCES}-{MAX_REFERENCES} photos, 3-5 recommended: {formats(heic=reads_heic())}"


PHOTOS_HELP = "folder of photos, or with a folder for each object, to check the weights with"


def command_line() -> argparse.ArgumentParser:
    """Return the parser; `command` names the chosen command."""
    parser = argparse.ArgumentParser(prog="python -m opad_core", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True)

    train = commands.add_parser("train", help="learn a concept from photos; continues a training that was stopped")
    train.add_argument("--images", type=Path, required=True, help=f"folder of {REFERENCES_HELP}")
    train.add_argument("--class", dest="class_noun", required=True, help="what the photos show, for instance dog")
    train.add_argument("--out", type=Path, required=True, help="folder for the bundle, previews and checkpoints")
    train.add_argument(
        "--method",
        default="opad",
        choices=list(METHODS),
        help="how the concept is learned; the service takes opad and custom_diffusion",
    )
    train.add_argument("--preset", default="default", choices=list(PRESETS), help=f"of opad: {PRESET_HELP}")
    train.add_argument("--ablation", choices=ABLATIONS, help="of opad: remove one part of the method")
    train.add_argument("--iterations", type=int, help="iterations, of opad: of the distillation stage")
    train.add_argument(
        "--collaborative-iterations",
        type=int,
        help="of opad: iterations of the collaborative stage; 0 is the training of the paper's tables",
    )
    train.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="change a setting that `presets` prints"
    )
    train.add_argument("--seed", type=int, default=0, help="the same seed gives the same bundle on the same machine")
    train.add_argument(
        "--keep-teacher", action="store_true", help="of opad: also write the teacher, for `generate --teacher`"
    )
    train.set_defaults(command="train")

    generate = commands.add_parser("generate", help="generate images of a learned concept, one diffusion step each")
    generate.add_argument("--concept", type=Path, help="folder that `train` wrote; default: the untouched student")
    generate.add_argument("--prompt", required=True, help='for instance "a <concept> on the beach"')
    generate.add_argument("--out", type=Path, required=True, help="folder for the images")
    generate.add_argument("--count", type=int, default=1, help="number of images")
    generate.add_argument("--seed", type=int, default=0, help="seed of the first image; the others count up from it")
    generate.add_argument(
        "--decoder", default="full", choices=get_args(DecoderName), help="fast loses fine detail; not every base has it"
    )
    generate.add_argument(
        "--teacher",
        action="store_true",
        help="use the teacher of `train --keep-teacher`, which takes many steps",
    )
    generate.add_argument(
        "--steps", type=int, help=f"default: 1, or {STEPS} for the teacher; SD-Turbo's student was distilled for 1 to 4"
    )
    generate.add_argument("--guidance", type=float, help="classifier-free guidance of the teacher; default: the base's")
    generate.set_defaults(command="generate")

    evaluate = commands.add_parser("evaluate", help="score a learned concept beside the untouched student")
    evaluate.add_argument("--concept", type=Path, required=True, help="folder that `train` wrote")
    evaluate.add_argument("--images", type=Path, required=True, help=f"folder of {REFERENCES_HELP}")
    evaluate.add_argument("--out", type=Path, help="folder for report.json and report.png; default: the concept's")
    evaluate.set_defaults(command="evaluate")

    export = commands.add_parser("export", help="write files that diffusers, ComfyUI and kohya's tools load")
    export.add_argument("--concept", type=Path, required=True, help="folder that `train` wrote")
    export.add_argument("--out", type=Path, required=True, help="folder for the files")
    export.add_argument("--rank", type=int, default=DEFAULT_RANK, help="LoRA rank; export.json has its relative error")
    export.set_defaults(command="export", precision="float32")

    doctor = commands.add_parser("doctor", help="check a base's weights, and report what each part of the method costs")
    doctor.add_argument("--images", type=Path, help=f"{PHOTOS_HELP}; default: the examples of a checkout")
    doctor.add_argument("--only-checks", action="store_true", help="do not measure what each part costs")
    doctor.add_argument("--skip-checks", action="store_true", help="do not check the weights")
    doctor.add_argument("--random-weights", action="store_true", help="SD-Turbo at full size, without any download")
    doctor.add_argument("--resolution", type=int, help="pixels of random weights; default: 512 on a GPU, else 256")
    doctor.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    doctor.set_defaults(command="doctor")

    for command in (train, generate, export):
        command.add_argument("--force", action="store_true", help="replace what an earlier run wrote there")
    for command in (train, generate, evaluate, export, doctor):
        command.add_argument("--base", default="nano", help="name of a base or path of its folder")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    for command in (train, generate, evaluate, doctor):
        command.add_argument(
            "--precision",
            default="auto",
            choices=get_args(PrecisionSetting),
            help="half needs two thirds of the memory; auto: half on CUDA, except for the preset paper; else float32",
        )

    fetch = commands.add_parser(
        "fetch",
        help="download a base from the hub or a mirror; continues a stopped download, and adds a missing fast decoder",
    )
    fetch.add_argument(
        "base",
        choices=[*FETCHED, METRICS],
        help="sd-turbo, the same with SD 2.1-base as its teacher, AMD's Nitro-1 with that teacher, or the networks of "
        "the published metrics for `tables`",
    )
    fetch.add_argument("--to", type=Path, help="folder of the base; default: where --base NAME finds it")
    fetch.add_argument(
        "--from",
        dest="mirror",
        help="folder or s3://bucket/prefix with <owner>/<name>/<files>, or another hub's address",
    )
    fetch.add_argument(
        "--like", type=Path, help="folder with the manifest.json of an earlier fetch; the hashes must be equal"
    )
    fetch.add_argument("--images", type=Path, help=f"{PHOTOS_HELP}; default: the examples of a checkout")
    fetch.add_argument("--skip-checks", action="store_true", help="do not check the weights at the end")
    fetch.set_defaults(command="fetch")

    presets = commands.add_parser("presets", help="print every setting of a training, its source, and who set it")
    presets.add_argument("--base", default="nano", help="name of a base or path of its folder")
    presets.set_defaults(command="presets")

    flops = commands.add_parser("flops", help="count the operations of one iteration at full size, without weights")
    flops.add_argument("--base", default="sd-turbo", choices=["sd-turbo"], help="whose networks are counted")
    flops.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    flops.add_argument("--ablation", choices=ABLATIONS, help="remove one part of the method")
    flops.add_argument("--resolution", type=int, default=512, help="pixels")
    flops.add_argument("--json", action="store_true", help="print JSON")
    flops.set_defaults(command="flops")

    tables = commands.add_parser("tables", help="compare the methods: run what is missing, and write the tables")
    into = tables.add_mutually_exclusive_group(required=True)
    into.add_argument("--out", type=Path, help="folder of the runs, the tables and the sheets")
    into.add_argument(
        "--study",
        type=Path,
        metavar="FOLDER",
        help="write the folder of a user study instead, with one image of each row for each prompt; uses seed 0 alone",
    )
    tables.add_argument(
        "--photos", type=Path, nargs="+", required=True, metavar="FOLDER",
        help="folders of photos with class.txt, one for each concept; of the other protocols: the dataset's folder",
    )  # fmt: skip
    into.add_argument(
        "--write-prompts",
        type=Path,
        metavar="FOLDER",
        help="only write the prompts that --images-of needs images of",
    )
    tables.add_argument(
        "--images-of", action="append", default=[], metavar="NAME=FOLDER",
        help="also score images that another method made elsewhere; can be repeated",
    )  # fmt: skip
    tables.add_argument(
        "--ip-adapter", type=Path, metavar="FOLDER",
        help="also generate and score images of IP-Adapter with TCD on SDXL, whose weights are there",
    )  # fmt: skip
    tables.add_argument(
        "--protocol", choices=PROTOCOLS, help="which photos and prompts; default: nano's on nano, else dreambooth"
    )
    tables.add_argument(
        "--methods", nargs="+", metavar="NAME", help="methods, or single rows; default: all rows of all tables"
    )
    tables.add_argument("--seeds", type=int, default=3, help="seeds of each concept, from 0")
    tables.add_argument("--jobs", type=int, default=1, help="processes that learn side by side, one thread each")
    tables.add_argument("--base", default="nano", help="name of a base or path of its folder")
    tables.add_argument("--device", default="auto", help="auto, cpu or cuda")
    tables.add_argument(
        "--work", type=Path, default=Path("build/tables"), help="folder of the images that the sheets are made of"
    )
    tables.set_defaults(command="tables")

    memory = commands.add_parser(
        "memory", help="count the memory of a training at full size, without weights, for each way to save memory"
    )
    memory.add_argument("--preset", default="default", choices=list(PRESETS), help=PRESET_HELP)
    memory.add_argument("--batch-size", type=int, default=2, help="images in a batch")
    memory.set_defaults(command="memory")

    return parser


def settings_by_hand(assignments: list[str]) -> dict[str, Any]:
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


def require_output_folders(arguments: argparse.Namespace) -> None:
    """Raise OpadError if a folder of results cannot be used, before hours of work are lost."""
    for name in ("out", "study", "write_prompts", "work", "to"):
        folder = getattr(arguments, name, None)
        if folder is not None:
            require_output_folder(folder)


def sentence_of(error: OpadError | OSError) -> str:
    """Return what a command prints of an error. An OSError is about a path of the command line, or a full disk."""
    if isinstance(error, OpadError):
        ours = "python -m opad_core"  # which a shell finds only while the environment is active
        return str(error).replace(ours, f"{sys.executable} -m opad_core")
    reason = error.strerror or " ".join(str(error).split())
    return reason if error.filename is None else f"{shown(error.filename)}: {reason}"
