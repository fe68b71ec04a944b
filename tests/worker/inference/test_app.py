import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from threading import current_thread
from typing import get_args

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select
from starlette.testclient import TestClient
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from api.domain.database import make_sessions
from api.domain.engine_answer import Generated
from api.domain.settings import Method
from api.domain.storage import Storage
from api.domain.tables import ServedBase
from api.schemas import COMMAND_LINE_METHODS
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.config import OpadConfig, preset
from opad_core.methods.registry import METHODS
from tests.engine_process import engine_process
from tests.hostile_bundles import HOSTILE
from tests.worker.inference.conftest import random_bundle
from worker.inference.app import announce, create_app
from worker.stack.embedded import environment

BEACH = "a <concept> on the beach"


@pytest.fixture
def client(engine_settings):
    with TestClient(create_app(engine_settings, bind="test")) as client:
        yield client


def ask(client, name, **changes):
    body = {"bundle": name, "prompt": BEACH, "seeds": [1, 2], "format": "png", "deadline_ms": 60_000} | changes
    return client.post("/generate", json=body)


def generated(client, name, **changes) -> Generated:
    return Generated.unpack(ask(client, name, **changes).content)


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def test_it_returns_the_images_of_the_generator(client, base, stored):
    first, second = generated(client, stored[0].name), generated(client, stored[0].name)
    expected = OneStepGenerator(base).generate([ImageRequest(stored[0].bundle, BEACH, seed) for seed in (1, 2)])
    assert np.array_equal([pixels(image) for image in first.images], expected)
    assert (first.seeds, first.media_type) == ([1, 2], "image/png")
    assert first.cache == {"bundle": "miss", "kv": "miss"}
    assert second.cache == {"bundle": "hit", "kv": "hit"}
    assert first.timing.keys() == {"queue_ms", "bundle_ms", "text_ms", "unet_decode_ms", "encode_ms"}


def test_it_warns_of_words_that_do_not_reach_the_image(client, stored):
    answer = generated(client, stored[0].name, prompt="a dog <concept> zebra " + "on the beach " * 6)
    assert answer.warnings == [
        "nano does not know 'zebra' and may ignore it",
        "the prompt is longer than nano reads; it ignores the end: 'the beach on the beach'",
    ]
    assert generated(client, stored[0].name).warnings == []


def test_it_says_when_the_images_are_alike(client, stored):
    answer = generated(client, stored[0].name, seeds=[7, 7, 7, 7])
    assert answer.warnings == [
        "the images of these 4 seeds are nearly alike; other words change more than another seed"
    ]


def test_half_precision_differs_only_by_rounding(engine_settings, base, stored):
    half = engine_settings.model_copy(update={"precision": "half"})
    with TestClient(create_app(half, bind="test")) as client:
        halved = np.stack([pixels(image) for image in generated(client, stored[0].name).images])
    expected = OneStepGenerator(base).generate([ImageRequest(stored[0].bundle, BEACH, seed) for seed in (1, 2)])
    assert not np.array_equal(halved, expected)
    assert np.abs(halved.astype(int) - expected).max() <= 4  # levels of 255; float16 has eleven bits


@pytest.mark.parametrize(("name", "media_type"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_it_encodes_in_the_requested_format(client, name, media_type):
    answer = generated(client, None, prompt="a dog", format=name)
    assert answer.media_type == media_type
    assert Image.open(io.BytesIO(answer.images[0])).format == name.upper()


def test_a_file_names_the_concept_and_its_seed(client, stored):
    concept_id = "0198c0de-7e57-7000-8000-000000000001"
    for image, seed in zip(generated(client, stored[0].name, concept_id=concept_id).images, (1, 2), strict=True):
        packet = Image.open(io.BytesIO(image)).info["XML:com.adobe.xmp"]
        assert f'opad:concept="{concept_id}" opad:bundle="{stored[0].sha256}" opad:seed="{seed}"' in packet


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"prompt": "a dog"}, 422, "does not name <concept>"),
        ({"seeds": [-1]}, 422, "seeds must be in"),
        ({"format": "bmp"}, 422, "format"),
        ({"deadline_ms": 1}, 504, "not generated within 1 ms"),
        ({"bundle": {"key": "bundles/none.safetensors", "sha256": "0" * 64}}, 404, "no object"),
        ({"bundle": {"key": "x", "sha256": "../../etc/passwd"}}, 422, "sha256"),
    ],
)
def test_refusals_name_the_mistake(client, stored, changes, status, words):
    answer = ask(client, stored[0].name, **changes)
    assert answer.status_code == status
    assert words in answer.json()["message"]


def test_a_bundle_of_another_base_is_refused_with_a_code_of_its_own(client, base, settings):
    data = random_bundle(base, 1, base_sha256="0" * 64)
    name = {"key": "bundles/foreign.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    Storage(settings).put_once(name["key"], data, name["sha256"])

    answer = ask(client, name)

    assert (answer.status_code, answer.json()["code"]) == (409, "base_changed")
    assert answer.json()["message"].endswith("train it again, or load that base")


def test_a_hostile_bundle_is_refused_is_not_kept_and_harms_no_other(client, stored, settings, subtests):
    """It has the hash that its row names, as in a backup that somebody else made."""
    for what in ("header longer than the file", "overlapping tensors", "not a number"):
        damage, words = HOSTILE[what]
        data = damage(stored[0].data)
        name = {"key": f"bundles/{what}.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
        Storage(settings).put_once(name["key"], data, name["sha256"])
        with subtests.test(what):
            answer = ask(client, name)
            assert (answer.status_code, answer.json()["code"]) == (422, "bad_request")
            assert re.search(words, answer.json()["message"])
            assert not list(settings.home.glob(f"cache/bundles/*{name['sha256']}*"))
    assert len(generated(client, stored[0].name).images) == 2


def test_announcing_twice_leaves_one_row(settings, base):
    sessions = make_sessions(settings)
    announce(sessions, base.manifest, "an earlier reason")
    announce(sessions, base.manifest, None)
    with sessions() as session:
        (row,) = session.scalars(select(ServedBase)).all()
    assert (row.name, row.resolution, row.nouns) == ("nano", 64, ["dog", "mug", "robot"])
    assert (row.manifest_sha256, row.limits) == (base.manifest.sha256, base.manifest.limits)
    assert row.no_fast_decoder is None
    found = {name: (len(values), values["lambda_adv"]) for name, values in row.presets.items()}
    assert found == {name: (len(fields(OpadConfig)), [1.0, 1.0, 1.0]) for name in ("paper", "default")}
    assert row.presets["default"]["iterations"] == preset("default", base.manifest.presets).iterations
    assert {name: (values["iterations"], values["class_images"]) for name, values in row.methods.items()} == {
        "custom_diffusion": (10, 64)  # 1.72 times 4 + 2 iterations of OPAD, and the value on nano
    }


def test_the_service_takes_or_explains_every_method():
    assert set(METHODS) - {*get_args(Method), *COMMAND_LINE_METHODS} == set()
    assert not set(get_args(Method)) & set(COMMAND_LINE_METHODS)
    assert set(get_args(Method)) <= set(METHODS)


def test_a_terminated_engine_finishes_accepted_requests(engine_settings, stored, tmp_path):
    address = tmp_path / "engine.sock"
    with engine_process(engine_settings, address) as process:
        assert address.stat().st_mode & 0o777 == 0o600
        with (
            httpx.Client(
                transport=httpx.HTTPTransport(uds=str(address), retries=8), base_url="http://engine"
            ) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            assert client.get("/readyz").status_code == 200
            asking = [pool.submit(ask, client, stored[0].name, seeds=list(range(8))) for _ in range(4)]
            next(iter(asking)).result(60)  # the other requests have been accepted by now
            process.send_signal(signal.SIGTERM)
            assert [answer.result(60).status_code for answer in asking] == 4 * [200]
        assert process.wait(30) == -signal.SIGTERM  # uvicorn raises the signal again when it has finished


def test_the_networks_run_in_the_model_thread_alone(engine_settings, stored):
    threads = set()
    hook = register_module_forward_pre_hook(
        lambda module, inputs: threads.add(current_thread().name) if isinstance(module, nn.Conv2d) else None
    )
    with hook, TestClient(create_app(engine_settings, bind="test")) as client:
        generated(client, stored[0].name)
    assert threads == {"model"}


def test_an_engine_whose_start_fails_ends(engine_settings, base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "damaged")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    settings = engine_settings.model_copy(update={"base": str(folder)})
    ended = subprocess.run(
        [sys.executable, "-m", "worker.inference", "--bind", f"unix:{tmp_path / 'engine.sock'}"],
        env={**os.environ, **environment(settings)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "diffusion_pytorch_model.safetensors differs from the hash in its manifest" in ended.stdout + ended.stderr


def test_a_forgotten_bundle_is_in_no_cache(client, stored, engine_settings):
    name = stored[0].name
    file = engine_settings.home / "cache" / "bundles" / f"{name['sha256']}.safetensors"
    ask(client, name)
    assert file.exists()
    assert client.delete(f"/bundles/{name['sha256']}").status_code == 204
    assert not file.exists()
    assert generated(client, name).cache == {"bundle": "miss", "kv": "miss"}
    assert client.delete("/bundles/..%2Fx").status_code in (404, 422)


def test_an_engine_that_answers_has_announced_its_base(engine_settings, base):
    with TestClient(create_app(engine_settings, bind="test")) as client, make_sessions(engine_settings)() as session:
        assert client.get("/readyz").status_code == 200
        assert session.scalars(select(ServedBase.name)).all() == [base.manifest.name]


def test_the_metrics_count_images_per_batch(client, stored):
    def counts():
        families = text_string_to_metric_families(client.get("/metrics").text)
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        return samples["opad_engine_batch_size_count"], samples["opad_engine_batch_size_sum"]

    passes, images = counts()
    ask(client, stored[0].name)
    assert counts() == (passes + 1, images + 2)
