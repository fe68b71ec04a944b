"""Requests for the full and for the fast decoder, to an engine whose base has both or one."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select
from starlette.testclient import TestClient

from api.domain.database import make_sessions
from api.domain.tables import ServedBase
from opad_core.bases.fast_decoder import FAST_DECODER, WEIGHTS
from opad_core.bases.loading import load_base
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.random_base import add_fast_decoder
from tests.worker.inference.test_app import BEACH, ask, generated, pixels
from worker.inference.app import create_app


@pytest.fixture
def with_fast(base_folder, tmp_path):
    """A copy of the base on which the stored concepts were learned, with a fast decoder."""
    folder = shutil.copytree(base_folder, tmp_path / "with_fast")
    add_fast_decoder(folder)
    return folder


@pytest.fixture
def both(engine_settings, with_fast):
    with TestClient(create_app(engine_settings.model_copy(update={"base": str(with_fast)}), bind="test")) as client:
        yield client


def announced(settings):
    with make_sessions(settings)() as session:
        return session.scalar(select(ServedBase.no_fast_decoder))


def test_a_concept_from_before_is_drawn_with_both_decoders(both, stored, with_fast, engine_settings):
    """The bundle was written on the base without a fast decoder."""
    full, fast = (generated(both, stored[0].name, decoder=name).images for name in ("full", "fast"))
    expected = OneStepGenerator(load_base(str(with_fast), device="cpu")).generate(
        [ImageRequest(stored[0].bundle, BEACH, seed, name) for name in ("full", "fast") for seed in (1, 2)]
    )
    # another batch size may round a pixel to the next level
    assert np.abs(np.stack([pixels(image) for image in full + fast]).astype(int) - expected).max() <= 1
    assert not np.array_equal(pixels(full[0]), pixels(fast[0]))
    assert generated(both, stored[0].name).images == full  # the default of the engine
    packet = Image.open(io.BytesIO(fast[0])).info["XML:com.adobe.xmp"]
    assert 'opad:seed="1" opad:decoder="fast"' in packet
    assert announced(engine_settings) is None


def test_an_engine_without_one_says_why(engine_settings, stored):
    with TestClient(create_app(engine_settings, bind="test")) as client:
        answer = ask(client, stored[0].name, decoder="fast")
        assert (answer.status_code, answer.json()["code"]) == (422, "no_fast_decoder")
        assert answer.json()["message"] == "the base 'nano' has no fast decoder here"
        assert announced(engine_settings) == answer.json()["message"]
        assert "decoder" in ask(client, stored[0].name, decoder="best").json()["message"]


def test_a_damaged_one_leaves_the_full_decoder(engine_settings, stored, with_fast):
    (with_fast / FAST_DECODER / WEIGHTS).write_bytes(b"")
    with TestClient(create_app(engine_settings.model_copy(update={"base": str(with_fast)}), bind="test")) as client:
        assert ask(client, stored[0].name).status_code == 200
        assert ask(client, stored[0].name, decoder="fast").status_code == 422
        assert announced(engine_settings) == (
            f"fast_decoder/{WEIGHTS} differs from the hash in the fast decoder's manifest; install it again"
        )
