"""The engine's HTTP interface. Only the api calls it: to generate images, to drop a bundle, and to check its health."""

import asyncio
import copy
import re
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, get_args
from uuid import UUID

import structlog
import torch
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tenacity import AsyncRetrying, retry_if_exception_type, wait_fixed

from api.domain.database import Sessions, make_sessions
from api.domain.denied_words import ENGINE_CODE, DeniedWords
from api.domain.engine_answer import MEDIA_TYPE, Generated
from api.domain.errors import NO_FAST_DECODER, Unavailable
from api.domain.provenance import Provenance
from api.domain.replaced_bases import BASE_CHANGED
from api.domain.settings import DecoderName, Method, Settings
from api.domain.storage import ObjectDamaged, ObjectMissing, Storage
from api.domain.tables import ServedBase
from opad_core import (
    MAX_SEED,
    PLACEHOLDER,
    PRESETS,
    Base,
    Bundle,
    ImageRequest,
    Manifest,
    OneStepGenerator,
    OpadError,
    OtherBaseError,
    TextEncoder,
    compiler_for,
    device_named,
    image_warnings,
    load_base,
    method_config,
    precision_for,
    preset,
    prompt_warnings,
)
from worker.heartbeat import ProcessHeartbeat, machine_facts
from worker.inference.batching import PREDICTED_WAIT, Batcher, DeadlinePassed, GeneratedImage, Overloaded
from worker.inference.bundles import BundleCache
from worker.inference.compiling import Compiling, capture_on_gpu
from worker.inference.denied_tokens import DeniedTokens, PromptDenied
from worker.inference.encoding import MEDIA_TYPES, Format
from worker.inference.marking import Marking
from worker.retries import log_retry

log = structlog.get_logger()

ANNOUNCING_SECONDS = 5.0
"""Longest delay of the start while the row of the base is written."""


class BundleName(BaseModel):
    key: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class GenerateRequest(BaseModel):
    bundle: BundleName | None
    concept_id: UUID | None = None
    """Written to the metadata of the files."""
    prompt: str
    seeds: list[int] = Field(min_length=1, max_length=16)
    format: Format
    decoder: DecoderName = "full"
    deadline_ms: int = Field(gt=0, le=600_000)


@dataclass(frozen=True)
class Engine:
    manifest: Manifest
    text: TextEncoder
    """The base's, with a copy of its tokenizer: the model thread uses the original."""
    no_fast_decoder: str | None
    denied: DeniedTokens
    bundles: BundleCache
    batcher: Batcher
    encoders: ThreadPoolExecutor
    marking: Marking

    async def generate(self, request: GenerateRequest) -> Generated:
        """Generate and encode the images of a request.

        Raises PromptDenied, Overloaded, DeadlinePassed, TimeoutError, OpadError, and what `BundleCache.get` raises.
        """
        deadline = time.monotonic() + request.deadline_ms / 1000
        async with asyncio.timeout(request.deadline_ms / 1000):
            bundle, bundle_hit, bundle_ms = await self._bundle(request.bundle)
            class_noun = bundle.class_noun if bundle else ""
            self.denied.refuse(request.prompt.replace(PLACEHOLDER, class_noun))
            image_requests = [ImageRequest(bundle, request.prompt, seed, request.decoder) for seed in request.seeds]
            futures = self.batcher.submit(image_requests, deadline=deadline)
            # while the model thread works
            warnings = prompt_warnings(self.manifest, self.text, prompt=request.prompt, class_noun=class_noun)
            generated: list[GeneratedImage] = await asyncio.gather(*map(asyncio.wrap_future, futures))
            before = time.monotonic()
            loop = asyncio.get_running_loop()
            bundle_sha256 = request.bundle.sha256 if request.bundle else None
            origins = [
                Provenance(self.manifest.name, request.concept_id, bundle_sha256, seed, request.decoder)
                for seed in request.seeds
            ]
            encoding = [
                loop.run_in_executor(self.encoders, self.marking.file, image.pixels, request.format, origin)
                for image, origin in zip(generated, origins, strict=True)
            ]
            warnings += await loop.run_in_executor(self.encoders, image_warnings, [image.pixels for image in generated])
            images = await asyncio.gather(*encoding)
        return Generated(
            images=images,
            seeds=request.seeds,
            media_type=MEDIA_TYPES[request.format],
            warnings=warnings,
            timing={
                "queue_ms": round(max(image.queue_ms for image in generated), 2),
                "bundle_ms": round(bundle_ms, 2),
                "text_ms": round(sum(image.text_ms for image in generated), 2),
                "unet_decode_ms": round(max(image.unet_decode_ms for image in generated), 2),
                "encode_ms": round(1000 * (time.monotonic() - before), 2),
            },
            cache={
                "bundle": "hit" if bundle_hit else "miss",
                "kv": "hit" if generated[0].kv_hit else "miss",
            },
        )

    async def _bundle(self, name: BundleName | None) -> tuple[Bundle | None, bool, float]:
        if name is None:
            return None, True, 0.0
        before = time.monotonic()
        bundle, hit = await self.bundles.get(name.key, name.sha256)
        return bundle, hit, 1000 * (time.monotonic() - before)


def create_app(settings: Settings, *, bind: str) -> Starlette:
    """Return the app. It loads the base before the first request and closes the queue after the last one."""

    denied_words = DeniedWords.read(settings.denied_words)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        precision = precision_for("generation", settings.precision, device=device_named(settings.device))
        base = await asyncio.to_thread(
            load_base, settings.base, bases=settings.bases, device=settings.device, precision=precision
        )
        await asyncio.to_thread(base.load, "generation")
        generator = OneStepGenerator(base)
        no_fast_decoder = await asyncio.to_thread(lambda: base.no_fast_decoder)
        log.info("engine.decoders", fast=no_fast_decoder is None, reason=no_fast_decoder)
        batcher = Batcher(generator)
        # cuDNN selects kernels for each thread, so the networks run in no other thread than the batcher's
        reason = await asyncio.wrap_future(batcher.between_batches(partial(capture_on_gpu, generator)))
        seconds = await asyncio.wrap_future(batcher.between_batches(partial(_first_image, generator)))
        batcher.seconds_per_image = seconds
        log.info("engine.ready", base=base.manifest.name, device=str(base.device), engine_level=generator.level,
                 first_image_s=round(seconds, 3))  # fmt: skip
        marking = Marking.of(settings, resolution=base.manifest.resolution)
        if marking.reason:
            log.warning("engine.unsigned", reason=marking.reason)
        PREDICTED_WAIT.set_function(batcher.predicted_wait)
        text = replace(base.text, tokenizer=copy.deepcopy(base.text.tokenizer))
        app.state.engine = Engine(
            base.manifest,
            text,
            no_fast_decoder,
            DeniedTokens(denied_words, text),
            BundleCache(Storage(settings, short_timeouts=True), settings.home / "cache" / "bundles"),
            batcher,
            ThreadPoolExecutor(4),
            marking,
        )
        announcing = asyncio.create_task(_announce(make_sessions(settings), base.manifest, no_fast_decoder))
        # a client may use the api as soon as this engine is ready; without a database the engine still works
        await asyncio.wait({announcing}, timeout=ANNOUNCING_SECONDS)
        compiling, compiler = None, compiler_for(base.device)
        if not settings.compile:
            reason = reason or "OPAD_COMPILE is false"
        elif compiler is None:
            reason = f"there is no compiler for the device {base.device.type}"
        elif reason is None:
            compiling = Compiling(
                generator,
                batcher,
                compiler=compiler,
                cache=settings.home / "cache" / "compiled",
                bases=settings.bases,
                precision=precision,
            )

        def level() -> dict[str, Any]:
            """Return the facts of the heartbeat about the level: which one, and why the engine is not compiled."""
            return {"level": generator.level, "level_reason": compiling.reason if compiling else reason}

        app.state.level = level
        heartbeat = ProcessHeartbeat(
            make_sessions(settings),
            kind="engine",
            name=f"{socket.gethostname()}:{bind}",
            facts=lambda: _facts(settings, base) | level() | marking.facts(),
        )
        with heartbeat, compiling or nullcontext():
            yield
        announcing.cancel()
        await asyncio.to_thread(batcher.close)

    return Starlette(
        routes=[
            Route("/generate", generate, methods=["POST"]),
            Route("/bundles/{sha256}", forget, methods=["DELETE"]),
            Route("/healthz", healthy),
            Route("/readyz", healthy),
            Route("/metrics", metrics),
        ],
        lifespan=lifespan,
    )


async def healthy(request: Request) -> Response:
    """Answer both probes: uvicorn accepts requests only after the base is loaded. The level is for people."""
    return JSONResponse({"status": "ok", **request.app.state.level()})


async def metrics(request: Request) -> Response:
    """Return the metrics for Prometheus."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def forget(request: Request) -> Response:
    """Drop every copy of an erased concept's bundle: in memory, on disk, and as computed keys and values."""
    engine: Engine = request.app.state.engine
    sha256 = request.path_params["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        return _refusal(422, "bad_request", "a bundle is named by its SHA-256 of 64 hexadecimal digits")
    await asyncio.to_thread(engine.bundles.forget, sha256)
    engine.batcher.forget(sha256)
    return Response(status_code=204)


async def generate(request: Request) -> Response:
    try:
        body = GenerateRequest.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors()[0]
        return _refusal(422, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if not all(0 <= seed <= MAX_SEED for seed in body.seeds):
        return _refusal(422, "bad_request", f"seeds must be in 0..{MAX_SEED}, got {body.seeds}")
    engine: Engine = request.app.state.engine
    if body.decoder == "fast" and engine.no_fast_decoder is not None:
        return _refusal(422, NO_FAST_DECODER, engine.no_fast_decoder)
    try:
        return Response((await engine.generate(body)).pack(), media_type=MEDIA_TYPE)
    except PromptDenied:
        return _refusal(422, ENGINE_CODE, "the prompt has a word that this installation refuses")
    except Overloaded as error:
        return _busy("overloaded", error.retry_after)
    except (DeadlinePassed, TimeoutError):
        return _refusal(504, "deadline_exceeded", f"not generated within {body.deadline_ms} ms")
    except ObjectMissing as error:
        return _refusal(404, "bundle_missing", str(error))
    except (Unavailable, ObjectDamaged) as error:
        log.warning("bundle.unavailable", error=str(error))
        return _busy("storage_unavailable", 3)
    except OtherBaseError as error:
        return _refusal(409, BASE_CHANGED, str(error))
    except OpadError as error:
        return _refusal(422, "bad_request", str(error))


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"code": code, "message": message}, status)


def _busy(code: str, retry_after: float) -> JSONResponse:
    return JSONResponse({"code": code, "retry_after": retry_after}, 503, headers={"Retry-After": f"{retry_after:.0f}"})


def _facts(settings: Settings, base: Base) -> dict[str, Any]:
    facts = {"base": base.manifest.name, "device": str(base.device), **machine_facts(settings)}
    if base.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(base.device)
        facts |= {
            "device_name": torch.cuda.get_device_name(base.device),
            "gpu_memory_used": total - free,
            "gpu_memory_total": total,
        }
    return facts


def _first_image(generator: OneStepGenerator) -> float:
    """Return the seconds that one image takes, after a first one that warms the device."""
    manifest = generator.base.manifest
    prompt = manifest.templates[0].format((manifest.nouns or ["dog"])[0])
    generator.generate([ImageRequest(None, prompt, 0)])
    before = time.monotonic()
    generator.generate([ImageRequest(None, prompt, 1)])
    return time.monotonic() - before


async def _announce(sessions: Sessions, manifest: Manifest, no_fast_decoder: str | None) -> None:
    """Write the base's row for the api. Retries while the database is away; images are generated without it."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(OperationalError),
        wait=wait_fixed(2),
        before_sleep=log_retry("base.not_announced"),
    )
    await retrying(asyncio.to_thread, announce, sessions, manifest, no_fast_decoder)


def announce(sessions: Sessions, manifest: Manifest, no_fast_decoder: str | None) -> None:
    """Write the row from which the api knows the base: its vocabulary, limits, presets, resolution and decoders."""
    row = {
        "name": manifest.name,
        "resolution": manifest.resolution,
        "nouns": manifest.nouns,
        "words": manifest.words,
        "limits": manifest.limits,
        "presets": {name: asdict(preset(name, manifest.presets)) for name in PRESETS},
        "methods": {name: asdict(method_config(name, manifest)) for name in get_args(Method) if name != "opad"},
        "no_fast_decoder": no_fast_decoder,
        "manifest_sha256": manifest.sha256,
    }
    statement = insert(ServedBase).values(row)
    with sessions.begin() as session:
        session.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={**row, "announced_at": func.now()})
        )
    log.info("base.announced", base=manifest.name)
