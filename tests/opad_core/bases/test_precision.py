import itertools

import pytest
import torch

from opad_core.bases.precision import precision_for


@pytest.mark.parametrize(
    ("task", "preset", "device", "precision"),
    [
        ("generation", None, "cuda:1", "half"),
        ("generation", None, "cpu", "float32"),
        ("generation", None, "mps", "float32"),
        ("training", "default", "cuda", "half"),
        ("training", "default", "cpu", "float32"),
        ("training", "default", "mps", "float32"),
        ("training", "paper", "cuda", "float32"),
        ("training", None, "cuda", "float32"),
    ],
)
def test_auto_is_half_on_cuda_except_for_trainings_without_the_preset_default(task, preset, device, precision):
    assert precision_for(task, "auto", device=torch.device(device), preset=preset) == precision


@pytest.mark.parametrize("precision", ["float32", "half"])
def test_a_chosen_precision_is_for_every_task_and_device(precision):
    cases = itertools.product(("generation", "training"), ("cuda", "cpu"), ("default", "paper", None))
    assert {precision_for(t, precision, device=torch.device(d), preset=p) for t, d, p in cases} == {precision}
