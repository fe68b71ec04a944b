import copy
import logging
import os
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.generation.inductor import compiled_twin, keep_in
from opad_core.methods.accelerated import accelerated, check_losses
from opad_core.methods.custom_diffusion import CustomDiffusion, CustomDiffusionConfig
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.training.config import override
from opad_core.training.data import prepare_data
from opad_core.training.loop import Training


def test_losses_that_differ_by_rounding_are_accepted():
    check_losses([{"rec": 1.0, "d_clip": 1e-6}], [{"rec": 1.04, "d_clip": 0.0}])


@pytest.mark.parametrize("found", [1.2, float("nan"), float("inf")])
def test_other_losses_are_refused(found):
    with pytest.raises(OpadError, match=r"in iteration 2 mse is (1\.2|nan|inf), not 1\.0"):
        check_losses([{"mse": 1.0}, {"mse": found}], [{"mse": 1.0}, {"mse": 1.0}])


def test_a_missing_loss_is_refused():
    with pytest.raises(OpadError, match="rec is None"):
        check_losses([{}], [{"rec": 1.0}])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU captures")
def test_where_nothing_can_be_captured_the_plain_training_goes_on(base, references, caplog):
    config = override(preset("default", base.manifest.presets), {"iterations": 8})

    def build(networks):
        return new_training(networks, references, "dog", config, seed=1)

    training = build(base)
    with caplog.at_level(logging.WARNING):
        kept = accelerated(training, build, cache=None)
    assert kept is training
    assert "learning goes on without CUDA graphs" in caplog.text
    untried = build(base)
    for each in (kept, untried):
        each.iterate()
        each.iterate()
    assert kept.bundle() == untried.bundle(), "the trial left a trace"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_iterations_learn_what_plain_ones_learn(base, references):
    on_gpu = load_base(str(base.folder), device="cuda")
    config = override(preset("default", base.manifest.presets), {"iterations": 24})

    def build(networks):
        return new_training(networks, references, "dog", config, seed=1)

    plain = build(on_gpu)
    captured = accelerated(build(on_gpu), build, cache=None)
    for _ in range(20):
        expected, losses = plain.iterate(), captured.iterate()
        for name, value in expected.items():
            assert float(losses[name]) == pytest.approx(float(value), rel=1e-3)


@pytest.fixture
def tiny(base):
    """The random base with a student of one level, which compiles in a minute; the base's own takes several."""
    channels, size, _ = base.latent_shape
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(32,),
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), layers_per_block=1,
            cross_attention_dim=base.text.encoder.config.hidden_size, attention_head_dim=2, norm_num_groups=8,
        )  # fmt: skip
    tiny = copy.copy(base)
    tiny.student = base.student.with_unet(unet)
    return tiny


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="Inductor needs a C++ compiler")
def test_a_compiled_network_learns_what_a_plain_one_learns(tiny, references, tmp_path, monkeypatch):
    """Inductor compiles the forward and backward pass for a CPU, by the path that it takes on a GPU."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # so that the values that `keep_in` sets do not stay
    keep_in(tmp_path)
    unet = tiny.student.unet
    compiled = tiny.with_networks(lambda network: compiled_twin(network) if network is unet else network)
    config = CustomDiffusionConfig(iterations=2, batch_size=2, class_images=0, lr=1e-3, lr_token=1e-2)
    data = prepare_data(tiny, references, "dog", config)
    trainings = [
        Training(CustomDiffusion(data, config, seed=1, networks=networks), data, config, seed=1)
        for networks in (tiny, compiled)
    ]
    for _ in range(2):
        expected, losses = (training.iterate() for training in trainings)
        # fused kernels round in another order: 1e-6 was measured
        assert float(losses["rec"]) == pytest.approx(float(expected["rec"]), rel=1e-4)
        adapters = [training.method.adapter for training in trainings]
        for wanted, found in zip(*(adapter.parameters() for adapter in adapters), strict=True):
            assert (found.grad - wanted.grad).norm() <= 1e-4 * wanted.grad.norm()
    assert list(tmp_path.rglob("*.so"))
    assert any(part._compiled_call_impl is not None for part in compiled.student.unet.modules())
