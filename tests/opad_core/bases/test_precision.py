import pytest
import torch

from opad_core.bases.precision import precision_for


@pytest.mark.parametrize(
    ("task", "device", "precision"),
    [
        ("generation", "cuda:1", "half"),
        ("generation", "cpu", "float32"),
        ("generation", "mps", "float32"),
        ("training", "cuda", "float32"),
        ("training", "cpu", "float32"),
    ],
)
def test_auto_is_half_only_for_generation_on_cuda(task, device, precision):
    assert precision_for(task, "auto", device=torch.device(device)) == precision


@pytest.mark.parametrize("precision", ["float32", "half"])
def test_a_chosen_precision_is_for_every_task_and_device(precision):
    tasks = [(task, device) for task in ("generation", "training") for device in ("cuda", "cpu")]
    assert {precision_for(task, precision, device=torch.device(device)) for task, device in tasks} == {precision}
