"""A demonstration: `python -m worker.demo` starts the service and uses it through its REST API.

It uploads photos with `POST /concepts`, shows the job's progress, generates images with `POST /generate`, and writes
`demo/sheet.png` and `demo/report.json`. Every figure is computed from the images that the service returned.
"""

import argparse
import io
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from tqdm import tqdm

from api.domain.commands import runnable
from api.domain.consent import STATEMENT
from api.domain.environment import accept_any_file_name, end_with, read_settings
from api.domain.settings import Settings
from opad_core import (
    PARTLY_AI_GENERATED,
    Manifest,
    OpadError,
    Row,
    draw_sheet,
    find_references,
    held_out_scenes,
    identity_score,
    load_base,
    override,
    preset,
    read_references,
    reads_heic,
    require_output_folder,
    save_marked,
)
from worker.stack.home import LocalError
from worker.stack.launcher import local_stack
from worker.stack.supervision import UnusableSetting

EXAMPLE = Path(__file__).parents[1] / "examples" / "striped_mug"
SCENES = 4
SEED = 100
"""One image per scene: after training, images of one prompt differ little between seeds."""
TILE = 256
TIMED_CALLS = 50
POLL_SECONDS = 0.5
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {postfix}"
LOSS_NAMES = {"rec": "reconstruction", "id": "identity", "mse": "latents", "swd": "textures"}
"""The losses that fit on a line, in words."""
PLAN = """\
{count} photos of a {noun} in {folder}; base {base}.
1. Start PostgreSQL, Valkey, an S3 store, a trainer and an engine, with their data in {home}: some seconds.
2. Upload the photos and learn the concept in {iterations} iterations: some minutes on a CPU.
3. Generate an image in each of {scenes} scenes, before and after training, and write {sheet}.
"""


@dataclass(frozen=True)
class GeneratedImages:
    """Files as the service answered with them, and so with its marks."""

    untouched: bytes
    personalised: bytes


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.demo", description=__doc__)
    parser.add_argument(
        "--images", default="", help="folder of 3-5 photos; more where a setting allows it (default: a shipped example)"
    )
    parser.add_argument("--class", dest="class_noun", default="", help="class noun of the subject, for instance dog")
    parser.add_argument("--iterations", type=int, help="length of the distillation stage; a few are enough for a trial")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default %(default)s)")
    arguments = parser.parse_args(argv)
    accept_any_file_name()
    try:
        require_output_folder(arguments.out)
        folder, class_noun = _what_to_learn(arguments.images, arguments.class_noun)
        settings = read_settings()
        heic = reads_heic(settings.heic)
        found = find_references(folder, heic=heic)
        if notice := found.notice():
            print(f"opad: {notice}", file=sys.stderr)
        _check_count(settings, folder, len(found.readable))
        references = read_references(folder, heic=heic, max_file_bytes=settings.max_upload_mb * 1024**2)
        if arguments.images:
            print(f"By uploading {folder} you state: {STATEMENT}")
        base = load_base(settings.base, bases=settings.bases, device="cpu")
        _check_class_noun(base.manifest, class_noun)
        scenes = _spread(held_out_scenes(base, references, class_noun))
        prompts = [scene.format("<concept>") for scene in scenes]
        print(
            PLAN.format(
                count=len(references), noun=class_noun, folder=folder, base=base.manifest.name, home=settings.home,
                iterations=_total_iterations(base.manifest, arguments.iterations),
                scenes=len(scenes), sheet=arguments.out / "sheet.png",
            )
        )  # fmt: skip
        if base.manifest.limits:
            print(base.manifest.limits)
        with local_stack(settings, say=print) as running:
            client = httpx.Client(
                base_url=running.api_url,
                headers={"Authorization": f"Bearer {running.admin_key}"},
                timeout=60,
                trust_env=False,  # a proxy would see the photos and the key
            )
            with client:
                report = run(
                    client, found.readable, class_noun, references, prompts, arguments.iterations, arguments.out
                )
            print("\n`make up` runs the service:")
            print(f"API documentation: {running.api_url}/docs and dashboard: {running.api_url}/dashboard")
    except UnusableSetting as error:
        end_with(*str(error).splitlines())
    except (OpadError, LocalError) as error:
        print(f"opad: {runnable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; `make demo` starts again; concepts that were learned are kept", file=sys.stderr)
        return 130
    print(
        f"identity {report['identity_before']:.3f} -> {report['identity_after']:.3f}, "
        f"learned in {report['train_seconds']:.0f} s, {report['generate_ms_p50']:.0f} ms per image\n"
        f"see {arguments.out / 'sheet.png'}"
    )
    return 0


def run(
    client: httpx.Client,
    files: list[Path],
    class_noun: str,
    references: list[Image.Image],
    prompts: list[str],
    iterations: int | None,
    out: Path,
) -> dict[str, Any]:
    """Learn and generate with a running service. Write the sheet, the report and the images; return the report."""
    name = f"{class_noun} {time.strftime('%Y-%m-%d %H:%M:%S')}"
    job = _post_concept(client, files, name, class_noun, iterations)
    job = _watch(client, job)
    if job["state"] != "succeeded":
        reason = job["error"]["detail"] if job["error"] else "see the folder of logs"
        raise OpadError(f"the job ended {job['state']}: {reason}")

    generated = {
        prompt: GeneratedImages(
            untouched=_generate(client, name, prompt, untouched=True),
            personalised=_generate(client, name, prompt, untouched=False),
        )
        for prompt in prompts
    }
    identity = {
        side: identity_score([_pixels(getattr(images, side)) for images in generated.values()], references)
        for side in ("untouched", "personalised")
    }
    milliseconds = [_milliseconds_of_one(client, name, prompts[0], seed) for seed in range(TIMED_CALLS)]
    report = {
        "concept": name,
        "class_noun": class_noun,
        "identity_before": round(identity["untouched"], 4),
        "identity_after": round(identity["personalised"], 4),
        "train_seconds": round(job["worked_seconds"], 1),
        "generate_ms_p50": round(statistics.median(milliseconds), 1),
        "generate_ms_p95": round(statistics.quantiles(milliseconds, n=20)[-1], 1),
        "iterations": job["total_steps"],
        "seed": SEED,
        "prompts": prompts,
    }

    out.mkdir(parents=True, exist_ok=True)
    for i, images in enumerate(generated.values()):
        for side in ("untouched", "personalised"):
            (out / f"{side}-{i}.png").write_bytes(getattr(images, side))
    subtitle = (
        f"identity {report['identity_before']:.2f} before, {report['identity_after']:.2f} after   "
        f"learned in {report['train_seconds']:.0f} s   one diffusion step, {report['generate_ms_p50']:.0f} ms per image"
    )
    rows = [
        Row(prompt, [_pixels(images.untouched)], [_pixels(images.personalised)]) for prompt, images in generated.items()
    ]
    title = f"OPAD: this {class_noun}, anywhere"
    sheet = draw_sheet(title, subtitle, references, rows, tile=TILE)
    save_marked(sheet, out / "sheet.png", {}, source=PARTLY_AI_GENERATED)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _what_to_learn(images: str, class_noun: str) -> tuple[Path, str]:
    if not images:
        if class_noun:
            raise OpadError(f"which photos show a {class_noun}? `make demo IMAGES=folder CLASS={class_noun}`")
        return EXAMPLE, _noun_of(EXAMPLE)
    folder = Path(images).expanduser()
    if not class_noun and (folder / "class.txt").is_file():
        class_noun = _noun_of(folder)
    if not class_noun:
        raise OpadError("the class noun is missing: `make demo IMAGES=folder CLASS=dog`")
    return folder, class_noun


def _noun_of(folder: Path) -> str:
    try:
        return (folder / "class.txt").read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise OpadError(
            f"{folder / 'class.txt'} is not UTF-8 text: {error.reason}; save it as UTF-8, or give the noun as CLASS=dog"
        ) from error


def _spread(scenes: list[str]) -> list[str]:
    """Return scenes from all over the list. Neighbors may be the same scene in other words."""
    return scenes[:: max(1, len(scenes) // SCENES)][:SCENES]


def _overrides(iterations: int | None) -> dict[str, int]:
    """Return the changes to the preset that a trial of this length asks for."""
    return {} if iterations is None else {"iterations": iterations, "collaborative_iterations": min(iterations, 10)}


def _total_iterations(manifest: Manifest, iterations: int | None) -> int:
    return override(preset("default", manifest.presets), _overrides(iterations)).total_iterations


def _check_class_noun(manifest: Manifest, noun: str) -> None:
    """Raise OpadError if the base does not know the noun, before the service is started."""
    if manifest.nouns is not None and noun not in manifest.nouns:
        raise OpadError(
            f"the base {manifest.name!r} does not know {noun!r}; CLASS can be one of: {', '.join(manifest.nouns)}"
        )


def _check_count(settings: Settings, folder: Path, count: int) -> None:
    """Raise OpadError if the service would refuse this number of photos, before it is started."""
    if settings.min_references <= count <= settings.max_references:
        return
    name = "OPAD_MIN_REFERENCES" if count < settings.min_references else "OPAD_MAX_REFERENCES"
    raise OpadError(
        f"the service needs {settings.reference_count('photo')}; {folder} holds {count}; "
        f"set {name}={count} to allow that"
    )


def _post_concept(
    client: httpx.Client, files: list[Path], name: str, class_noun: str, iterations: int | None
) -> dict[str, Any]:
    form = {"name": name, "class_noun": class_noun, "seed": "0", "consent": "true"}
    if overrides := _overrides(iterations):
        form["overrides"] = json.dumps(overrides)
    answer = client.post("/concepts", data=form, files=[("images", (_utf_8(p), p.read_bytes())) for p in files])
    job: dict[str, Any] = _checked(answer).json()["job"]
    return job


def _utf_8(path: Path) -> str:
    """Return the file's name for a form. Linux allows names that are not UTF-8."""
    return os.fsencode(path.name).decode(errors="replace")


def _watch(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Show a progress bar with the remaining time and the losses until the job ends; return the job."""
    with tqdm(total=job["total_steps"], desc="queued", bar_format=BAR) as bar:
        while job["state"] in ("queued", "running"):
            job = _checked(client.get(f"/v1/jobs/{job['id']}")).json()
            if job["total_steps"]:
                bar.total = job["total_steps"]
            bar.n = job["step"]
            bar.set_description(job["stage"] or job["state"], refresh=False)
            losses = " ".join(
                f"{name} {job['losses'][key]:.3f}" for key, name in LOSS_NAMES.items() if key in job["losses"]
            )
            left = "" if job["eta_seconds"] is None else f"{job['eta_seconds']:.0f} s left  "
            bar.set_postfix_str(left + losses)
            time.sleep(POLL_SECONDS)  # a client's polling interval, not a wait for a known event
    return job


def _generate(client: httpx.Client, name: str, prompt: str, *, untouched: bool) -> bytes:
    body = {"concept": name, "prompt": prompt, "seed": SEED, "untouched": untouched}
    return _checked(client.post("/generate", json=body, headers={"Accept": "image/png"})).content


def _pixels(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file)).convert("RGB")


def _milliseconds_of_one(client: httpx.Client, name: str, prompt: str, seed: int) -> float:
    """Measure one image over HTTP, as a client waits for it."""
    body = {"concept": name, "prompt": prompt, "seed": seed}
    began = time.perf_counter()
    _checked(client.post("/generate", json=body, headers={"Accept": "image/jpeg"}))
    return (time.perf_counter() - began) * 1000


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise OpadError(f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}: "
                        f"{answer.json().get('detail', answer.text)}")  # fmt: skip
    return answer


if __name__ == "__main__":
    sys.exit(main())
