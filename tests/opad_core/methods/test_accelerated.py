import logging

import pytest
import torch

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.methods.accelerated import accelerated, check_losses
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.training.config import override


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
