"""Engines that compile in the background, with a real child process, cache and compiler."""

import os
import stat
import threading
import time

import numpy as np
import psutil
import pytest
from starlette.testclient import TestClient

from opad_core.generation.compiled import cache_folder, has_compiled
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.worker.inference.test_app import BEACH, generated, pixels
from worker.inference.app import create_app
from worker.inference.compiling import Compiling

ANY_TEMPLATE = "a photo of a dog"


def compiling(generator, batcher, cache, compiler="onnxruntime"):
    return Compiling(
        generator, batcher, compiler=compiler, cache=cache, bases=cache / "bases", precision="float32"
    )  # fmt: skip


def ended(background):
    """Wait until the one attempt has ended."""
    background._thread.join(120)
    assert not background._thread.is_alive()
    return background.reason


def until(condition, seconds=300):
    """Poll what another process does; there is no event to wait for. It has a low priority, so busy cores slow it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


@pytest.mark.slow
def test_an_engine_serves_at_once_and_then_compiles(engine_settings, stored, base):
    settings = engine_settings.model_copy(update={"compile": True})
    expected = OneStepGenerator(base).generate([ImageRequest(stored[0].bundle, BEACH, seed) for seed in (1, 2)])
    with TestClient(create_app(settings, bind="test")) as client:
        first = client.get("/healthz").json()
        assert first == {"status": "ok", "level": "eager", "level_reason": "it compiles in the background"}
        before = [pixels(image) for image in generated(client, stored[0].name).images]
        until(lambda: client.get("/healthz").json()["level"] == "compiled")
        assert client.get("/healthz").json()["level_reason"] is None
        after = [pixels(image) for image in generated(client, stored[0].name).images]
    # another compiler sums in another order, which may round a pixel to the next level
    assert np.abs(np.stack(after).astype(int) - expected).max() <= 1
    assert np.abs(np.stack(before).astype(int) - expected).max() <= 1
    with TestClient(create_app(settings, bind="test")) as client:  # the cache is filled, so no child compiles
        until(lambda: client.get("/healthz").json()["level"] == "compiled", seconds=20)


def test_an_engine_that_may_not_compile_says_so(engine_settings):
    with TestClient(create_app(engine_settings.model_copy(update={"compile": False}), bind="test")) as client:
        assert client.get("/healthz").json() == {
            "status": "ok", "level": "eager", "level_reason": "OPAD_COMPILE is false",
        }  # fmt: skip


def test_without_a_c_compiler_the_engine_stays_as_it_is_and_tries_once(
    generator, batcher, tmp_path, monkeypatch, capsys
):
    """Inductor needs one on a CPU, too."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with compiling(generator, batcher, tmp_path / "cache", "inductor") as background:
        reason = ended(background)
        assert reason.startswith("inductor failed: ")
        assert "C++ compiler" in reason
        assert generator.level == "eager"
        (future,) = batcher.submit([ImageRequest(None, ANY_TEMPLATE, 1)], deadline=time.monotonic() + 60)
        assert future.result(60).pixels.shape == (64, 64, 3)
    said = capsys.readouterr().out
    assert said.count("engine.compiling") == 1
    assert said.count("engine.not_compiled") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_is_named(generator, batcher, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with compiling(generator, batcher, tmp_path / "cache") as background:
        assert "cannot be written" in ended(background)
    assert generator.level == "eager"


def test_a_cache_whose_name_is_a_files_is_named(generator, batcher, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with compiling(generator, batcher, tmp_path / "cache") as background:
        assert f"{tmp_path / 'cache'} cannot be written" in ended(background)
    assert generator.level == "eager"


def test_a_damaged_cache_leaves_the_engine_as_it_is(generator, batcher, tmp_path):
    folder = cache_folder(tmp_path, generator, "onnxruntime")
    folder.mkdir()
    for name in ("filled", "one_step.onnx", "full.onnx"):
        (folder / name).write_bytes(b"damaged")
    with compiling(generator, batcher, tmp_path) as background:
        assert "one_step.onnx" in ended(background)
    assert generator.level == "eager"


def test_stopping_ends_the_child(generator, batcher, tmp_path):
    def children():
        return [p for p in psutil.Process().children() if "worker.inference.compile" in " ".join(p.cmdline())]

    with compiling(generator, batcher, tmp_path):
        until(children)
        (child,) = children()
    assert not child.is_running()
    assert not has_compiled(tmp_path, generator, "onnxruntime")
