"""Compiled networks and their cache, with both compilers. A GPU is not needed: Inductor also compiles for a CPU."""

import os
import shutil

import numpy as np
import pytest
import torch

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation import inductor
from opad_core.generation.bundle import read_bundle
from opad_core.generation.compiled import (
    _check,
    _remove_old,
    cache_folder,
    compiler_for,
    fill_compile_cache,
    has_compiled,
    image_difference,
    load_compile_cache,
)
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.opad_core.generation.test_generation import random_bundle
from tests.random_base import add_fast_decoder, write_random_base


@pytest.fixture(scope="module")
def filled(base, tmp_path_factory):
    """A cache that was filled once an earlier fill had been interrupted."""
    root, generator = tmp_path_factory.mktemp("filled"), OneStepGenerator(base)
    folder = cache_folder(root, generator, "onnxruntime")
    folder.mkdir()
    (folder / "one_step.onnx").write_bytes(b"half a file")
    assert not has_compiled(root, generator, "onnxruntime")
    fill_compile_cache(generator, root, "onnxruntime")
    return root


def requests(base, count):
    """Return requests for two concepts in turn."""
    bundles = [read_bundle(random_bundle(base, seed)) for seed in (1, 2)]
    return [ImageRequest(bundles[seed % 2], "a <concept> on the beach", seed) for seed in range(count)]


@pytest.mark.slow
def test_onnx_runtime_generates_the_same_images_at_every_batch_size(base, filled):
    compiled = OneStepGenerator(base)
    compiled.use(load_compile_cache(compiled, filled, "onnxruntime"), "compiled")
    for count in range(1, 9):
        expected = OneStepGenerator(base).generate(requests(base, count))
        # it sums in another order: 1e-6, which may round a pixel to the next level
        assert image_difference(compiled.generate(requests(base, count)), expected)[0] <= 1


@pytest.mark.slow
def test_inductor_compiles_the_blocks_of_a_copy(base, tmp_path, monkeypatch):
    """The smallest network is enough: compiling all at each batch size takes minutes on a CPU."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    folder = shutil.copytree(base.folder, tmp_path / "with_fast")
    add_fast_decoder(folder)
    generator = OneStepGenerator(load_base(str(folder), device="cpu"))
    module, examples = generator.modules["fast"], generator.examples(2)["fast"]
    compiled = inductor.compiled_twin(module)
    with torch.no_grad():
        expected, images = module(*examples).numpy(), compiled(*examples).numpy()
    # fused kernels round in another order: 1e-6, which may round a pixel to the next level
    assert image_difference(images, expected)[0] <= 1
    assert list((tmp_path / "inductor").rglob("*.so"))
    # another thread may use the original meanwhile, and no weight is in memory twice
    assert all(part._compiled_call_impl is None for part in module.modules())
    assert any(part._compiled_call_impl is not None for part in compiled.modules())
    pairs = zip(module.state_dict().values(), compiled.state_dict().values(), strict=True)
    assert all(own.data_ptr() == other.data_ptr() for own, other in pairs)


@pytest.mark.parametrize("compiler", ["onnxruntime", "inductor"])
def test_loading_can_be_ended_before_each_part(base, tmp_path, monkeypatch, compiler):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # so that the values that `load` sets do not stay
    generator = OneStepGenerator(base)
    folder = cache_folder(tmp_path, generator, compiler)
    folder.mkdir()
    (folder / "filled").touch()

    def end():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_compile_cache(generator, tmp_path, compiler, before_each=end)


@pytest.mark.slow
def test_a_filled_cache_is_not_filled_again(base, filled):
    generator = OneStepGenerator(base)
    assert has_compiled(filled, generator, "onnxruntime")
    file = cache_folder(filled, generator, "onnxruntime") / "one_step.onnx"
    before = file.stat().st_mtime_ns
    fill_compile_cache(generator, filled, "onnxruntime")
    assert file.stat().st_mtime_ns == before


@pytest.mark.slow
def test_another_base_precision_or_compiler_has_another_folder(base, filled, tmp_path):
    other = load_base(str(write_random_base(tmp_path / "other", seed=1)), device="cpu")
    half = load_base(str(base.folder), device="cpu", precision="half")
    folders = [cache_folder(filled, OneStepGenerator(each), "onnxruntime") for each in (base, other, half)]
    folders.append(cache_folder(filled, OneStepGenerator(base), "inductor"))
    assert len(set(folders)) == 4
    assert [folder.exists() for folder in folders] == [True, False, False, False]


def test_the_four_folders_that_were_used_last_are_kept(tmp_path):
    for age in range(6):
        (tmp_path / f"from-{age}-days-ago").mkdir()
        marker = tmp_path / f"from-{age}-days-ago" / "filled"
        marker.touch()
        os.utime(marker, (marker.stat().st_mtime - 86400 * age,) * 2)
    _remove_old(tmp_path)
    assert {folder.name for folder in tmp_path.iterdir()} == {f"from-{age}-days-ago" for age in range(4)}


def test_networks_that_generate_other_images_are_refused(base, tmp_path):
    other = OneStepGenerator(load_base(str(write_random_base(tmp_path / "other", seed=1)), device="cpu"))
    with pytest.raises(OpadError, match="the compiled networks generate other images: by up to"):
        _check(OneStepGenerator(base), other.modules)


def test_the_difference_of_images_is_told_by_pixel_mean_and_block():
    images, others = np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8)
    others[0, 0, 0, 0] = 128  # one of 768 numbers, and one of 64 in its block
    assert image_difference(images, others) == (128, pytest.approx(128 / 768), pytest.approx(128 / 64))
    images[0, 0, 1, 0] = 128  # the block's mean is the same again
    assert image_difference(images, others) == (128, pytest.approx(256 / 768), 0)


def test_each_device_has_its_compiler():
    assert [compiler_for(torch.device(name)) for name in ("cuda", "cpu", "mps")] == ["inductor", "onnxruntime", None]
