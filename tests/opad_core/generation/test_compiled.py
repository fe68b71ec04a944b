"""Compiled networks and their cache, with both compilers. A GPU is not needed: Inductor also compiles for a CPU."""

import os

import numpy as np
import pytest
import torch

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
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
from opad_core.generation.fixed_sizes import SIZES
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from tests.opad_core.generation.test_generation import random_bundle
from tests.random_base import write_random_base


@pytest.fixture(scope="module")
def filled(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("filled")
    fill_compile_cache(OneStepGenerator(base), root, "onnxruntime")
    return root


def requests(base, count):
    """Return requests for two concepts in turn."""
    bundles = [read_bundle(random_bundle(base, seed)) for seed in (1, 2)]
    return [ImageRequest(bundles[seed % 2], "a <concept> on the beach", seed) for seed in range(count)]


def test_onnx_runtime_generates_the_same_images_at_every_batch_size(base, filled):
    compiled = OneStepGenerator(base)
    compiled.use(load_compile_cache(compiled, filled, "onnxruntime"), "compiled")
    for count in range(1, 9):
        expected = OneStepGenerator(base).generate(requests(base, count))
        # it sums in another order: 1e-6, which may round a pixel to the next level
        assert image_difference(compiled.generate(requests(base, count)), expected)[0] <= 1


@pytest.mark.slow
def test_inductor_generates_the_same_images_and_leaves_the_generators_networks_alone(base, tmp_path):
    """Slow: it compiles each kind of block at four batch sizes."""
    generator = OneStepGenerator(base)
    before = [list(module.state_dict().values()) for module in generator.modules.values()]
    fill_compile_cache(generator, tmp_path, "inductor")
    functions = load_compile_cache(generator, tmp_path, "inductor")
    compiled = OneStepGenerator(base)
    compiled.use(functions, "compiled")
    for count in SIZES:
        expected = generator.generate(requests(base, count))
        # fused kernels round in another order: 1e-6, which may round a pixel to the next level
        assert image_difference(compiled.generate(requests(base, count)), expected)[0] <= 1
    for module, tensors, function in zip(generator.modules.values(), before, functions.values(), strict=True):
        assert all(part._compiled_call_impl is None for part in module.modules())
        assert any(part._compiled_call_impl is not None for part in function.modules())
        own = [tensor.data_ptr() for tensor in tensors]
        assert [tensor.data_ptr() for tensor in function.state_dict().values()] == own


def test_a_filled_cache_is_not_filled_again(base, filled):
    generator = OneStepGenerator(base)
    assert has_compiled(filled, generator, "onnxruntime")
    file = cache_folder(filled, generator, "onnxruntime") / "one_step.onnx"
    before = file.stat().st_mtime_ns
    fill_compile_cache(generator, filled, "onnxruntime")
    assert file.stat().st_mtime_ns == before


def test_another_base_precision_or_compiler_has_another_folder(base, filled, tmp_path):
    other = load_base(str(write_random_base(tmp_path / "other", seed=1)), device="cpu")
    half = load_base(str(base.folder), device="cpu", precision="half")
    folders = [cache_folder(filled, OneStepGenerator(each), "onnxruntime") for each in (base, other, half)]
    folders.append(cache_folder(filled, OneStepGenerator(base), "inductor"))
    assert len(set(folders)) == 4
    assert [folder.exists() for folder in folders] == [True, False, False, False]


def test_a_fill_that_was_interrupted_is_repeated(base, tmp_path):
    generator = OneStepGenerator(base)
    folder = cache_folder(tmp_path, generator, "onnxruntime")
    folder.mkdir()
    (folder / "one_step.onnx").write_bytes(b"half a file")
    assert not has_compiled(tmp_path, generator, "onnxruntime")
    fill_compile_cache(generator, tmp_path, "onnxruntime")
    assert set(load_compile_cache(generator, tmp_path, "onnxruntime")) == {"one_step", "full"}


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
