"""`python -m opad_core tables`: run what is missing, and write the tables or the folder of a user study."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from PIL import Image
from tqdm import tqdm

from opad_core.bases.captions import REPORT_SCENES
from opad_core.bases.loading import Base, base_folder, device_named, load_base
from opad_core.bases.manifest import Manifest, read_manifest
from opad_core.bases.metric_networks import metrics_manifest
from opad_core.bases.precision import precision_for
from opad_core.errors import OpadError
from opad_core.evaluation.published import PublishedMetrics
from opad_core.evaluation.report import SEEDS
from opad_core.marked_images import PARTLY_AI_GENERATED, xmp_packet
from opad_core.tables import scoring
from opad_core.tables.code_hash import code_hash
from opad_core.tables.concepts import Concept, read_concept
from opad_core.tables.drawing import contact_sheet, draw_plot
from opad_core.tables.dreambooth_photos import compared
from opad_core.tables.elsewhere import (
    IP_ADAPTER,
    current_elsewhere,
    files_settings,
    image_files,
    missing_images,
    named_folders,
    prompts_of,
    score_folder,
    write_prompts,
)
from opad_core.tables.estimate import gpu_hours
from opad_core.tables.ip_adapter import IpAdapter, check_weights, make_missing
from opad_core.tables.markdown import Results, tables
from opad_core.tables.prompted import Prompted
from opad_core.tables.protocols import Subject, subjects_of
from opad_core.tables.rows import ROWS, Row, learned_by, rows_on
from opad_core.tables.running import Examination, Run, code_of, measure, strip
from opad_core.tables.runs_file import append_run, current, read_runs
from opad_core.tables.study import has_images, make_images, write_image, write_study

RUNS, README, PLOT = "runs.jsonl", "README.md", "identity-and-text.png"
SHEETS = "sheets"
SHEET_SEED = 0
"""Seed of the runs that the contact sheets show."""
WRITE_EVERY_SECONDS = 300
COUNTED_RESOLUTION = 512
"""Side of an image in pixels on SD-Turbo, whose operations are counted."""

Ended = TypeVar("Ended")


@dataclass(frozen=True)
class Plan:
    """What to run, and where the results go."""

    base: str
    bases: Path
    device: str
    photos: list[Path]
    """What the protocol takes: on nano a folder of photos with `class.txt` for each concept, else that of a dataset."""
    protocol: str
    """A name of `protocols.PROTOCOLS`."""
    rows: list[Row] | None
    """None: all that the base can have."""
    seeds: int
    out: Path
    work: Path
    """Folder of the images that contact sheets are made of."""
    jobs: int = 1
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Folders of images that were made elsewhere, by the name of their row."""
    ip_adapter: Path | None = None
    """Folder of IP-Adapter's weights, if it is compared."""


def run_command(arguments: argparse.Namespace, *, bases: Path, say: Callable[[str], None]) -> None:
    """Run what the command line asks for. Raises OpadError as `plan_of`, `run_tables` and `run_study` do."""
    plan = plan_of(arguments, bases=bases)
    if arguments.write_prompts is not None:
        write_all_prompts(plan, arguments.write_prompts, say=say)
    elif arguments.study is None:
        run_tables(plan, say=say)
    else:
        run_study(plan, arguments.study, say=say)


def plan_of(arguments: argparse.Namespace, *, bases: Path) -> Plan:
    """Return the plan of a command line.

    Raises OpadError for an unknown row, a base that is not there, and fewer than one seed or process.
    """
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise OpadError(f"--seeds and --jobs must be at least 1, got {arguments.seeds} and {arguments.jobs}")
    return Plan(
        base=arguments.base,
        bases=bases,
        device=arguments.device,
        photos=arguments.photos,
        protocol=arguments.protocol or usual_protocol(read_manifest(base_folder(arguments.base, bases))),
        rows=None if arguments.methods is None else chosen_rows(arguments.methods),
        seeds=arguments.seeds,
        out=arguments.out,
        work=arguments.work,
        jobs=arguments.jobs,
        elsewhere=named_folders(arguments.images_of),
        ip_adapter=arguments.ip_adapter,
    )


def run_tables(plan: Plan, *, say: Callable[[str], None]) -> None:
    """Run each row, concept and seed that has no result by today's code yet, then write the tables.

    Raises OpadError for folders that are not what the protocol takes, and if the metrics' networks are missing.
    """
    examined = examination_hash(plan)
    if plan.ip_adapter is not None:
        check_weights(plan.ip_adapter)
    subjects = subjects_of(plan.protocol, plan.photos)
    concepts = [subject.read() for subject in subjects]
    if plan.protocol == "dreambooth":
        say(compared(concepts))
    base = _base(plan.base, plan.bases, plan.device)
    manifest = base.manifest
    check_elsewhere(plan, base, subjects, concepts)
    plan = with_ip_adapter(plan, base, subjects, concepts)
    rows = [row.name for row in (rows_on(manifest) if plan.rows is None else plan.rows)]
    shared = learned_by(manifest)
    rows = list(dict.fromkeys(shared.get(row, row) for row in rows))
    plan.out.mkdir(parents=True, exist_ok=True)
    file = plan.out / RUNS
    there = current(runs_examined(file, examined), manifest)
    done = {(run["row"], run["concept"], run["seed"]) for run in there}
    # Seeds come last, so that every row has its first runs soon.
    wanted = [
        (ROWS[row], subject, seed)
        for seed, row, subject in product(range(plan.seeds), rows, subjects)
        if (row, subject.name, seed) not in done
    ]
    say(f"{len(wanted)} runs are missing, {len(done)} are there; {_estimate(plan, manifest, wanted, read_runs(file))}")
    for run in scored_elsewhere(plan, base, subjects, concepts, runs_examined(file, examined)):
        append_run(file, run | ({"examined": examined} if examined else {}))
    written_at = time.monotonic()
    for run in tqdm(_finished(plan.jobs, partial(_run, plan), wanted), total=len(wanted), unit="run"):
        append_run(file, run | ({"examined": examined} if examined else {}))
        if time.monotonic() - written_at > WRITE_EVERY_SECONDS:
            write_tables(plan, concepts, manifest, examined)
            written_at = time.monotonic()
    write_tables(plan, concepts, manifest, examined)
    say(f"the tables are in {plan.out / README}")


def write_all_prompts(plan: Plan, folder: Path, *, say: Callable[[str], None]) -> None:
    """Write the prompts of each concept, for images that are made elsewhere."""
    base = _base(plan.base, plan.bases, plan.device)
    for subject in subjects_of(plan.protocol, plan.photos):
        write_prompts(folder, subject.name, prompts_of(base, subject.read(), subject.prompts))
    say(f"the prompts are in {folder}; make CONCEPT/01/0.png to 3.png for the first of each, and so on")


def check_elsewhere(plan: Plan, base: Base, subjects: Sequence[Subject], concepts: Sequence[Concept]) -> None:
    """Raise OpadError if images that were made elsewhere are missing."""
    if not plan.elsewhere:
        return
    counts = {
        subject.name: len(prompts_of(base, concept, subject.prompts))
        for subject, concept in zip(subjects, concepts, strict=True)
    }
    for folder in plan.elsewhere.values():
        if lacking := missing_images(folder, counts):
            raise OpadError(f"{lacking}; `python -m opad_core tables --write-prompts` writes which prompts they show")


def with_ip_adapter(plan: Plan, base: Base, subjects: Sequence[Subject], concepts: Sequence[Concept]) -> Plan:
    """Generate IP-Adapter's missing images, and return the plan with their folder."""
    if plan.ip_adapter is None:
        return plan
    folder = plan.work / f"{IP_ADAPTER}-{plan.protocol}-{code_hash(['opad_core.tables.ip_adapter'])}"
    adapter = IpAdapter(plan.ip_adapter, device_named(plan.device))
    for subject, concept in zip(tqdm(subjects, desc="IP-Adapter", unit="concept"), concepts, strict=True):
        prompts = prompts_of(base, concept, subject.prompts)
        make_missing(adapter, concept.references, prompts, image_files(folder, subject.name, len(prompts)))
    return replace(plan, elsewhere={**plan.elsewhere, IP_ADAPTER: folder})


def scored_elsewhere(
    plan: Plan, base: Base, subjects: Sequence[Subject], concepts: Sequence[Concept], runs: Sequence[Run]
) -> Iterator[Run]:
    """Score images that were made elsewhere, unless one of `runs` has scored the same files by today's code."""
    done = [(run["row"], run["concept"], run["settings"]) for run in current_elsewhere(runs, base.manifest.sha256)]
    for (name, folder), (subject, concept) in product(plan.elsewhere.items(), zip(subjects, concepts, strict=True)):
        files = image_files(folder, subject.name, len(prompts_of(base, concept, subject.prompts)))
        if (name, subject.name, files_settings(files)) not in done:
            yield score_folder(base, concept, name, files, _examination(plan, subject))


def run_study(plan: Plan, folder: Path, *, say: Callable[[str], None]) -> None:
    """Learn each row on each concept whose images are missing in the folder of the study, then describe the study.

    Raises OpadError if no rows are chosen, for concepts of one name, and for a training that diverges.
    """
    if plan.rows is None:
        raise OpadError("--study needs --methods: the rows that people choose from, for instance opad lora untouched")
    concepts = [read_concept(photos) for photos in plan.photos]
    if len({concept.name for concept in concepts}) < len(concepts):
        raise OpadError(f"two folders have one name: {', '.join(map(str, plan.photos))}; give each concept its own")
    base = _base(plan.base, plan.bases, plan.device)
    wanted = [
        (row, photos)
        for (photos, concept), row in product(zip(plan.photos, concepts, strict=True), plan.rows)
        if not has_images(folder, base, row, concept)
    ]
    say(f"{len(wanted)} of {len(plan.rows) * len(concepts)} trainings are missing")
    for _ in tqdm(_finished(plan.jobs, partial(_make_images, plan, folder), wanted), total=len(wanted), unit="run"):
        pass
    say(f"{write_study(folder, base, plan.rows, concepts)} groups are in {folder}; `opad study import` loads them")


def _make_images(plan: Plan, folder: Path, row: Row, photos: Path) -> None:
    make_images(folder, _base(plan.base, plan.bases, plan.device), row, read_concept(photos))


def usual_protocol(manifest: Manifest) -> str:
    """Return the protocol of a base where none is named."""
    return "nano" if manifest.name == "nano" else "dreambooth"


def examination_hash(plan: Plan) -> str | None:
    """Return the protocol with hashes of its code and the metrics' networks; None for nano's, which `code_of` covers.

    Raises OpadError if the published metrics' networks are missing.
    """
    if plan.protocol == "nano":
        return None
    code = code_hash(["opad_core.tables.prompted", "opad_core.tables.protocols"])
    return f"{plan.protocol} {code} {metrics_manifest(plan.bases).sha256[:16]}"


def runs_examined(file: Path, examined: str | None) -> list[Run]:
    """Return the runs whose images were of these prompts and scored by these networks."""
    return [run for run in read_runs(file) if run.get("examined") == examined]


def write_tables(plan: Plan, concepts: Sequence[Concept], manifest: Manifest, examined: str | None) -> None:
    """Write the Markdown, the plot and the contact sheets from all current runs."""
    runs = runs_examined(plan.out / RUNS, examined)
    learned = current([run for run in runs if "elsewhere" not in run], manifest)
    results = Results([*learned, *current_elsewhere(runs, manifest.sha256)], learned_by(manifest))
    introduction = plan.out / "introduction.md"
    head = introduction.read_text() if introduction.exists() else f"# Tables on the base {plan.base}\n"
    plot = "" if PLOT in head else f"![identity against text fit]({PLOT})\n\n"
    (plan.out / README).write_text(f"{head.rstrip()}\n\n{plot}{tables(results)}")
    draw_plot(results, plan.out / PLOT)
    (plan.out / SHEETS).mkdir(exist_ok=True)
    for concept in concepts:
        files = [(row.label, _strip_file(plan, row, concept.name)) for row in ROWS.values()]
        strips = [(label, Image.open(file).convert("RGB")) for label, file in files if file.exists()]
        if strips:
            sheet = contact_sheet(concept.references, strips)
            xmp = xmp_packet({"model": manifest.name}, PARTLY_AI_GENERATED).encode()
            sheet.save(plan.out / SHEETS / f"{concept.name}.jpg", quality=85, xmp=xmp)


def _finished(jobs: int, run: Callable[..., Ended], wanted: Sequence[tuple[Any, ...]]) -> Iterator[Ended]:
    """Yield what `run` returns for each of `wanted`, when it has ended. Each process computes with one thread."""
    if jobs == 1:
        yield from (run(*one) for one in wanted)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_use_one_thread) as pool:
        waiting = iter(wanted)
        running: set[Future[Ended]] = set()
        while True:
            while len(running) < jobs and (one := next(waiting, None)) is not None:
                running.add(pool.submit(run, *one))
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _run(plan: Plan, row: Row, subject: Subject, seed: int) -> Run:
    base, concept = _base(plan.base, plan.bases, plan.device), subject.read()
    run, images = measure(base, concept, row, seed=seed, examination=_examination(plan, subject))
    if images is not None and seed == SHEET_SEED:
        xmp = xmp_packet({"model": base.manifest.name}).encode()
        write_image(strip(images), _strip_file(plan, row, concept.name), "JPEG", quality=90, xmp=xmp)
    return run


def _strip_file(plan: Plan, row: Row, concept: str) -> Path:
    return plan.work / f"{row.name}-{concept}-{code_of(row)}.jpg"


@cache
def _base(name: str, bases: Path, device: str) -> Base:
    precision = precision_for("training", "auto", device=device_named(device), preset="default")
    return load_base(name, bases=bases, device=device, precision=precision)


@cache
def _metrics(bases: Path, device: str) -> PublishedMetrics:
    return PublishedMetrics(bases, device_named(device))


def _examination(plan: Plan, subject: Subject) -> Examination:
    return Prompted(subject.prompts, _metrics(plan.bases, plan.device)) if subject.prompts else scoring


def _estimate(plan: Plan, manifest: Manifest, wanted: Sequence[tuple[Row, Subject, int]], runs: Sequence[Run]) -> str:
    """Say how long the missing runs take: at full size by their operations, else by the seconds of earlier runs."""
    if manifest.resolution == COUNTED_RESOLUTION:
        return gpu_hours(
            manifest, [(row, SEEDS * (len(subject.prompts) or REPORT_SCENES)) for row, subject, _ in wanted]
        )
    by_row: dict[str, list[float]] = {}
    by_method: dict[str, list[float]] = {}
    for run in runs:
        if run["row"] in ROWS:
            by_row.setdefault(run["row"], []).append(run["seconds"])
            by_method.setdefault(ROWS[run["row"]].method, []).append(run["seconds"])
    known = [by_row.get(row.name) or by_method.get(row.method) for row, _, _ in wanted]
    seconds = sum(fmean(one) for one in known if one) / plan.jobs
    unknown = sum(not one for one in known)
    text = f"about {seconds / 3600:.1f} hours"
    return f"{text}, and {unknown} runs of methods that have none yet" if unknown else text


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """Return rows by name, or all rows of a method by the method's name. Raises OpadError for an unknown name."""
    rows = []
    for name in names:
        found = [row for row in ROWS.values() if name in (row.name, row.method)]
        exact = [row for row in found if row.name == name]
        if not found:
            raise OpadError(f"there is no row {name!r}; known are {', '.join(ROWS)}")
        rows += exact or found
    return rows
