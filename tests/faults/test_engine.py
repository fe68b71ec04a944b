"""Engines die and disks fill up during requests for images."""

import asyncio
import hashlib
import io
import os
import resource
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
import pytest
from PIL import Image

from api.domain.errors import Unavailable
from api.domain.storage import Storage, bundle_key
from api.engine_client import BundleKey, EngineClient
from tests.engine_process import engine_process

pytestmark = [pytest.mark.timeout(600), pytest.mark.fault]


@pytest.fixture
def bundle(quick, undisturbed) -> BundleKey:
    sha256 = hashlib.sha256(undisturbed).hexdigest()
    Storage(quick).put_once(bundle_key(sha256), undisturbed, sha256)
    return BundleKey(bundle_key(sha256), sha256)


async def generate(client: EngineClient, concept, bundle: BundleKey, seed: int):
    return await client.generate(
        concept, bundle=bundle, prompt="a <concept> on the beach", seeds=[seed], image_format="png"
    )


def pixels(generated) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(generated.images[0]))).astype(int)


def test_pictures_that_an_engine_was_drawing_when_it_was_killed_come_the_same_from_another(
    quick, bundle, short_folder: Path
):
    """A concept's engine dies during twenty requests. Without any engine, the refusal says when to try again."""
    addresses = [short_folder / f"engine-{number}" for number in range(2)]
    concept = uuid4()

    async def ask() -> None:
        urls = [f"unix:{address}" for address in addresses]
        client = EngineClient(urls, timeout_seconds=60)
        try:
            before = [pixels(await generate(client, concept, bundle, seed)) for seed in range(20)]
            warm = client._tries(concept, urls)[0]
            victim = engines[urls.index(warm)]
            psutil.Process(victim.pid).suspend()  # so that it holds all twenty requests
            requests = [asyncio.create_task(generate(client, concept, bundle, seed)) for seed in range(20)]
            await asyncio.sleep(0.5)  # a frozen process cannot confirm that it got a request
            victim.kill()
            after = [pixels(await task) for task in requests]
            # generated in batches now, which sum in another order, so a value may round differently
            assert max(int(np.abs(a - b).max()) for a, b in zip(after, before, strict=True)) <= 1
            engines[1 - urls.index(warm)].kill()
            with pytest.raises(Unavailable) as refused:
                await generate(client, concept, bundle, 0)
            assert refused.value.retry_after == 3
        finally:
            await client.close()

    with ExitStack() as stack:
        engines = [stack.enter_context(engine_process(quick, address)) for address in addresses]
        asyncio.run(ask())


def test_an_engine_whose_disk_is_full_draws_all_the_same(quick, bundle, short_folder: Path):
    """The engine may not write a file above one kilobyte."""
    address = short_folder / "engine"
    with engine_process(quick, address) as engine:
        psutil.Process(engine.pid).rlimit(resource.RLIMIT_FSIZE, (1024, 1024))

        async def ask():
            client = EngineClient([f"unix:{address}"], timeout_seconds=60)
            try:
                return await generate(client, uuid4(), bundle, 1)
            finally:
                await client.close()

        assert len(asyncio.run(ask()).images) == 1
        kept = quick.home / "cache" / "bundles"
        assert os.listdir(kept) == [], "nor does it leave half a file"
