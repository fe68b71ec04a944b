"""Seed the rows and files of a busy installation, to measure and test the dashboard's pages without a training.

The references are those of `examples/`. Scores, losses and previews are invented: nothing here is the result of a
training.
"""

import hashlib
import io
import random
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image as PILImage
from PIL import ImageFilter, ImageOps
from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from api.domain import job_log
from api.domain.database import Sessions
from api.domain.storage import Storage, bundle_key, export_key, image_key, job_image_key, preview_key, reference_key
from api.domain.tables import (
    Attempt,
    Bundle,
    Concept,
    Export,
    GenerateHistogram,
    Heartbeat,
    Image,
    Job,
    JobEvent,
    JobState,
    Owner,
    Reference,
    ServedBase,
    Webhook,
    WebhookDelivery,
)
from api.domain.webhooks import new_secret
from bench.demo_study import seed_demo_study
from opad_core import PRESETS, CustomDiffusionConfig, preset

EXAMPLES = Path(__file__).parents[1] / "examples"
NOUNS = ["ball", "teapot", "backpack", "robot", "dog", "mug", "car", "cat"]
"""Class nouns of the examples' folders, in the order of their names."""
_STEPS = 200
_WATCHED = 12
"""Newest jobs, which have previews, events and images."""


def seed_demo_data(sessions: Sessions, storage: Storage, *, owner_name: str, concepts: int, jobs: int) -> list[UUID]:
    """Add so many concepts and jobs of the owner, at least one job per concept. Return the concepts' ids."""
    random_numbers = random.Random(0)
    references = _store_references(storage)
    now = datetime.now(UTC)
    with sessions.begin() as db:
        owner = db.scalar(select(Owner).where(Owner.name == owner_name)) or Owner(id=uuid7(), name=owner_name)
        db.add(owner)
        db.flush()
        if db.scalar(select(ServedBase.name)) is None:
            presets = {name: asdict(preset(name, {})) for name in PRESETS}
            nano = ServedBase(name="nano", resolution=64, nouns=NOUNS, words=NOUNS, manifest_sha256="0" * 64)
            nano.presets = presets
            nano.methods = {"custom_diffusion": asdict(CustomDiffusionConfig())}
            db.add(nano)
        owner_id = owner.id
        made = [
            Concept(
                id=uuid7(),
                owner_id=owner_id,
                name=f"{random_numbers.choice(['my', 'old', 'blue', 'tiny'])} {NOUNS[n % len(NOUNS)]} {n + 1}",
                class_noun=NOUNS[n % len(NOUNS)],
                base="nano",
            )
            for n in range(concepts)
        ]
        db.add_all(made)
        db.flush()
        group_of = {concept.id: references[n % len(references)] for n, concept in enumerate(made)}
        for concept_id, group in group_of.items():
            db.add_all(
                Reference(
                    concept_id=concept_id, position=p, key=reference_key(sha256), sha256=sha256, width=64, height=64
                )
                for p, sha256 in enumerate(group, start=1)
            )
        rows = [_job(owner_id, made[n % concepts].id, n // concepts + 1, now, random_numbers) for n in range(jobs)]
        db.execute(insert(Job), rows)
        ended = [row for row in rows if row["state"] is JobState.succeeded]
        db.execute(insert(Attempt), [_attempt(row) for row in rows if row["started_at"]])
        if ended:
            newest_ids = {row["id"] for row in rows[-_WATCHED:]}
            bundles = [
                _bundle(
                    row,
                    _report_images(storage, row["id"], group_of[row["concept_id"]] if row["id"] in newest_ids else []),
                )
                for row in ended
            ]
            db.execute(insert(Bundle), bundles)
            downloadable = [bundle for bundle in bundles if bundle["concept_id"] in {one.id for one in made[:4]}]
            db.add_all(Export(**row) for bundle in downloadable for row in _files(storage, bundle))
        watched = rows[-_WATCHED:]
        db.execute(delete(JobEvent).where(JobEvent.job_id.in_([row["id"] for row in watched])))
        db.execute(insert(JobEvent), [event for row in watched for event in _events(row)])
        _operations(db, owner_id, now)
        ids = [concept.id for concept in made]
        newest = [(row, group_of[row["concept_id"]]) for row in watched]
        _stored_images(storage, db, owner_id, ids[:4], references)
        seed_demo_study(db, storage, owner_id, [EXAMPLES / name for name in ("blue_teapot", "orange_robot")])
    for row, group in newest:
        _previews(storage, sessions, row["id"], row["step"], group)
    return ids


def _store_references(storage: Storage) -> list[list[str]]:
    groups = []
    for folder in sorted(path for path in EXAMPLES.iterdir() if path.is_dir()):
        group = []
        for path in sorted(folder.glob("*.png")):
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            storage.put_once(reference_key(sha256), data, sha256)
            group.append(sha256)
        groups.append(group)
    return groups


_SCORES = ["identity", "text_fit", "scene_accuracy", "clip_image", "dino", "diversity", "closest", "copies"]
_REPORT = {
    "prompts": ["a <concept> on the beach", "a <concept> in the snow"],
    "seeds": [1000, 1001, 1002, 1003],
    "personalised": dict(zip(_SCORES, [0.51, 0.29, 0.84, 0.81, 0.62, 0.21, 0.78, 0.0], strict=True)),
    "untouched": dict(zip(_SCORES, [0.39, 0.31, 0.91, 0.72, 0.48, 0.27, 0.55, 0.0], strict=True)),
    "verdict": {
        "name": "learned_well",
        "color": "green",
        "sentence": "Learned well: the likeness rose from 0.39 to 0.51.",
    },
}
_ENDINGS = [JobState.succeeded] * 7 + [JobState.failed] * 2 + [JobState.cancelled]
_FAILURES = [
    ("lost_worker", "all 5 attempts failed; the last one: the lease ran out"),
    ("oom", "OutOfMemoryError: 3.2 GB wanted, 1.1 GB free"),
    ("diverged", "the loss rec diverged twice, at step 61"),
]


def _job(
    owner_id: UUID, concept_id: UUID, version: int, now: datetime, random_numbers: random.Random
) -> dict[str, Any]:
    state = random_numbers.choice(_ENDINGS)
    began = now - timedelta(hours=random_numbers.uniform(0.5, 700))
    code, detail = random_numbers.choice(_FAILURES) if state is JobState.failed else (None, None)
    step = _STEPS if state is JobState.succeeded else random_numbers.randrange(_STEPS // 3, _STEPS)
    return {
        "id": uuid7(),
        "owner_id": owner_id,
        "concept_id": concept_id,
        "version": version,
        "preset": random_numbers.choice(["default", "default", "paper"]),
        "overrides": {"iterations": _STEPS},
        "seed": random_numbers.randrange(2**32),
        "state": state,
        "attempt": 1,
        "fence": 1,
        "stage": "distillation",
        "step": step,
        "total_steps": _STEPS,
        "losses": {"rec": 0.04},
        "error_code": code,
        "error_detail": detail,
        "created_at": began,
        "started_at": began + timedelta(seconds=2),
        "finished_at": began + timedelta(seconds=random_numbers.uniform(60, 400)),
    }


def _attempt(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid7(),
        "job_id": row["id"],
        "fence": 1,
        "worker": "gpu-1-0f3a9c",
        "started_at": row["started_at"],
        "ended_at": row["finished_at"],
        "cause": row["error_code"] or str(row["state"]),
        "detail": row["error_detail"],
        "wall_time": _wall_time(row),
    }


def _wall_time(row: dict[str, Any]) -> dict[str, float]:
    """Return invented parts of the attempt, which has no exports and no report card unless it succeeded."""
    shares = {"start": 0.03, "load": 0.02, "references": 0.01, "caches": 0.03, "distillation": 0.7, "samples": 0.02}
    shares |= {"collaborative": 0.1, "previews": 0.02, "checkpoints": 0.01}
    if row["state"] is JobState.succeeded:
        shares |= {"report_card": 0.04, "exports": 0.01, "store": 0.01}
    seconds = (row["finished_at"] - row["started_at"]).total_seconds()
    return {part: share * seconds for part, share in shares.items()}


def _report_images(storage: Storage, job_id: UUID, references: Sequence[str]) -> list[str]:
    """Store the references, mirrored, as the images of the job's report card. Return their hashes."""
    hashes = []
    for reference in references[:4]:
        file = io.BytesIO()
        image = PILImage.open(io.BytesIO(storage.get(reference_key(reference), reference))).convert("RGB")
        ImageOps.mirror(image.resize((64, 64))).save(file, "PNG")
        hashes.append(hashlib.sha256(file.getvalue()).hexdigest())
        storage.put_once(job_image_key(job_id, hashes[-1]), file.getvalue(), hashes[-1])
    return hashes


def _bundle(row: dict[str, Any], images: list[str]) -> dict[str, Any]:
    sha256 = hashlib.sha256(row["id"].bytes).hexdigest()
    return {
        "id": uuid7(),
        "job_id": row["id"],
        "concept_id": row["concept_id"],
        "version": row["version"],
        "key": bundle_key(sha256),
        "sha256": sha256,
        "size": 412_000,
        "report": _REPORT | {"images": images},
    }


def _files(storage: Storage, bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """Store a few bytes as the bundle and as each of its exports. Return the exports' rows."""
    storage.put_once(bundle["key"], bundle["job_id"].bytes, bundle["sha256"])
    rows = []
    for layout in ("diffusers", "kohya", "textual_inversion"):
        data = bundle["job_id"].bytes + layout.encode()
        sha256 = hashlib.sha256(data).hexdigest()
        storage.put_once(export_key(sha256), data, sha256)
        own = {"id": uuid7(), "bundle_id": bundle["id"], "layout": layout, "relative_error": None}
        rows.append(own | {"key": export_key(sha256), "sha256": sha256, "size": 401_000})
    return rows


def _events(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of the job, in place of the one event that the trigger wrote for the finished row."""

    def state(name: str, at: datetime, error: dict[str, str] | None = None) -> dict[str, Any]:
        data = {"state": name, "attempt": int(name != "queued"), "cancel_requested": False, "error": error}
        return {"job_id": row["id"], "kind": "state", "data": data, "created_at": at}

    error = {"code": row["error_code"], "detail": row["error_detail"]} if row["error_code"] else None
    between = [event | {"created_at": row["started_at"]} for event in (*_losses(row), *_log(row))]
    began = [state("queued", row["created_at"]), state("running", row["started_at"])]
    return [*began, *between, state(row["state"].value, row["finished_at"], error)]


def _losses(row: dict[str, Any]) -> list[dict[str, Any]]:
    def progress(step: int) -> dict[str, Any]:
        fall = 0.2 + 0.8 * 0.98**step
        names = {"rec": 0.05, "id": 0.5, "mse": 0.3, "swd": 0.1, "adv_dino": 0.7, "adv_clip": 0.6, "d_dino": 0.9}
        return {
            "job_id": row["id"],
            "kind": "progress",
            "data": {
                "stage": "distillation",
                "step": step,
                "total_steps": _STEPS,
                "eta_seconds": (_STEPS - step) * 0.4,
                "losses": {name: scale * fall for name, scale in names.items()},
            },
        }

    return [progress(step) for step in range(0, row["step"] + 1, 5)]


def _log(row: dict[str, Any]) -> list[dict[str, Any]]:
    lines = [("info", f"training.began base=nano device=cuda preset={row['preset']} photos=4 steps={_STEPS}")]
    lines += [("info", f"checkpoint.committed step={step} size=412000") for step in range(60, row["step"], 60)]
    if row["error_code"]:
        lines.append(("warning", f"job.attempt_lost cause={row['error_code']} error={row['error_detail']}"))
    seconds = (row["finished_at"] - row["started_at"]) / len(lines)
    return [
        {
            "job_id": row["id"],
            "kind": job_log.KIND,
            "data": asdict(job_log.LogLine((row["started_at"] + n * seconds).isoformat(), level, text)) | {"fence": 1},
        }
        for n, (level, text) in enumerate(lines)
    ]


def _previews(storage: Storage, sessions: Sessions, job_id: UUID, last: int, references: Sequence[str]) -> None:
    images = [PILImage.open(io.BytesIO(storage.get(reference_key(p), p))).convert("RGB") for p in references[:4]]
    for step in range(0, last + 1, 50):
        strip = PILImage.new("RGB", (256, 64))
        for n, image in enumerate(images):
            strip.paste(image.resize((64, 64)).filter(ImageFilter.GaussianBlur((_STEPS - step) / 40)), (64 * n, 0))
        file = io.BytesIO()
        strip.save(file, "PNG")
        data = file.getvalue()
        storage.put_once(preview_key(job_id, step), data, hashlib.sha256(data).hexdigest())
    with sessions.begin() as db:
        db.execute(update(Job).where(Job.id == job_id).values(preview_key=preview_key(job_id, last // 50 * 50)))


def _stored_images(
    storage: Storage, db: Session, owner_id: UUID, concepts: Sequence[UUID], references: list[list[str]]
) -> None:
    for n, concept_id in enumerate(concepts):
        sha256 = references[n % len(references)][0]
        image_id, data = uuid7(), storage.get(reference_key(sha256), sha256)
        key = image_key(concept_id, image_id, "png")
        storage.put_once(key, data, sha256)
        db.add(
            Image(
                id=image_id,
                owner_id=owner_id,
                concept_id=concept_id,
                version=1,
                prompt="a photo of a <concept> on the beach",
                seed=7 + n,
                format="png",
                key=key,
                sha256=sha256,
                size=len(data),
            )
        )


def _operations(db: Session, owner_id: UUID, now: datetime) -> None:
    """Add a webhook with messages, a day of generate requests, an engine and a trainer host."""
    hook = Webhook(
        id=uuid7(), owner_id=owner_id, url="https://example.org/opad", events=["job.failed"], secret=new_secret()
    )
    db.add(hook)
    db.flush()
    for state, status in (("delivered", 200), ("failed", 503), ("pending", 500)):
        entry = {"at": now.isoformat(), "status": status, "error": None, "ms": 84}
        payload = {"type": "job.failed", "timestamp": now.isoformat(), "data": {"version": 1}}
        db.add(
            WebhookDelivery(webhook_id=hook.id, event="job.failed", payload=payload, state=state, tries=2, log=[entry])
        )
    day = now.replace(minute=0, second=0, microsecond=0)
    db.execute(
        insert(GenerateHistogram),
        [
            {
                "slot": day - timedelta(hours=hour),
                "owner_id": owner_id,
                "outcome": outcome,
                "bucket": bucket,
                "count": n,
            }
            for hour in range(24)
            for outcome, bucket, n in (
                ("ok", 36, 40 + 5 * (hour % 7)),
                ("ok", 41 + hour % 3, 6),
                ("overloaded", 30, hour % 2),
            )
        ],
    )
    memory = {
        "machine": "gpu-1",
        "memory_used": 9.1e9,
        "memory_total": 33.6e9,
        "disk_used": 2.1e11,
        "disk_total": 5e11,
        "load": 0.31,
    }
    gpu = {"gpu_memory_used": 6.2e9, "gpu_memory_total": 2.4e10, "device_name": "NVIDIA RTX 4090"}
    engine = {"base": "nano", "device": "cuda", "level": "compiled", "level_reason": None, **gpu, **memory}
    trainer = {"base": "nano", "device": "cuda", **memory}
    db.add(Heartbeat(name="gpu-1:0.0.0.0:8100", kind="engine", facts=engine))
    db.add(Heartbeat(name="gpu-1:/var/lib/opad", kind="trainer", facts=trainer))
