"""The ladder of ways to save memory: which one is chosen, and that it changes memory alone."""

import shutil

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from opad_core.__main__ import main
from opad_core.bases.loading import load_base
from opad_core.errors import NotEnoughMemoryError
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.networks.checkpointing import checkpointed
from opad_core.peak_memory import AllocatedMemory
from opad_core.training.memory import FLOAT32, GIB, choose, ladder, rung_for, save_memory
from tests.gpu import pretend_gpu
from tests.random_base import claim_resolution, write_random_base

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
# Free memory of an otherwise unused card, in GiB: H100 80 GB, A100 40 GB, RTX 4090, RTX 4080, T4.
H100, A100, RTX_4090, RTX_4080, T4 = 79.1, 39.0, 23.5, 15.4, 14.6


@pytest.mark.parametrize(
    ("setting", "name", "free_gib", "number", "precision"),
    [
        ("auto", "default", H100, 1, "half"),
        ("auto", "default", A100, 1, "half"),
        ("auto", "default", RTX_4090, 2, "half"),
        ("auto", "default", RTX_4080, 3, "half"),
        ("auto", "default", T4, 3, "half"),
        ("auto", "paper", H100, 0, "float32"),
        ("auto", "paper", A100, 1, "half"),
        ("auto", "paper", RTX_4080, 3, "half"),
        ("float32", "default", H100, 0, "float32"),
        ("float32", "default", A100, 2, "float32"),
        ("float32", "default", RTX_4090, 3, "float32"),
        ("half", "paper", H100, 1, "half"),
    ],
)
def test_the_first_rung_that_fits_is_chosen(setting, name, free_gib, number, precision):
    rung = choose(free_gib, ladder(setting, device=CUDA, preset=name), batch_size=2)
    assert (rung.number, rung.precision) == (number, precision)


def test_a_card_that_is_too_small_is_refused_with_a_remedy():
    with pytest.raises(NotEnoughMemoryError) as refusal:
        choose(7.6, ladder("auto", device=CUDA, preset="default"), batch_size=2)
    assert str(refusal.value) == (
        "learning with batch_size=2 needs 13.4 GiB of free GPU memory, and 7.6 GiB are free; "
        "stop other programs that use the GPU, use a larger one or choose a batch_size below 2"
    )


def test_who_insists_on_float32_is_told_of_half_precision():
    with pytest.raises(NotEnoughMemoryError, match=r"use a larger one or learn in half precision$"):
        choose(RTX_4080, ladder("float32", device=CUDA, preset="default"), batch_size=1)


def test_larger_images_and_batches_need_more():
    rungs = ladder("auto", device=CUDA, preset="default")
    assert choose(RTX_4080, rungs, batch_size=2, resolution=512).number == 3
    for larger in ({"batch_size": 4, "resolution": 512}, {"batch_size": 2, "resolution": 768}):
        with pytest.raises(NotEnoughMemoryError):
            choose(RTX_4080, rungs, **larger)


@pytest.mark.parametrize(("setting", "precision"), [("auto", "float32"), ("float32", "float32"), ("half", "half")])
def test_on_a_cpu_nothing_is_saved(setting, precision):
    rung = rung_for(resolution=512, batch_size=2, preset="default", setting=setting, device=CPU)
    assert (rung.precision, rung.checkpoints_networks, rung.one_after_another) == (precision, False, False)


def test_free_memory_respects_the_limit_of_the_process(monkeypatch):
    pretend_gpu(monkeypatch, free=70 * GIB, total=80 * GIB, fraction=0.2)  # 16 of 80 GiB
    rung = rung_for(resolution=512, batch_size=2, preset="default", setting="auto", device=CUDA)
    assert rung.number == 3


def test_a_base_of_small_images_is_not_checked(monkeypatch):
    pretend_gpu(monkeypatch, free=GIB, total=8 * GIB)
    assert rung_for(resolution=64, batch_size=2, preset="default", setting="auto", device=CUDA).number == 1


@pytest.mark.parametrize("command", ["train", "doctor"])
def test_the_command_line_refuses_before_it_loads_a_network(command, monkeypatch, tmp_path, capsys):
    folder = write_random_base(tmp_path / "base")
    claim_resolution(folder, 512)
    shutil.rmtree(folder / "teacher")
    pretend_gpu(monkeypatch, free=8 * GIB, total=8 * GIB)
    photos = ["--images", str(tmp_path / "missing"), "--class", "dog", "--out", str(tmp_path / "out")]
    arguments = ["--base", str(folder), "--device", "cuda", *(photos if command == "train" else [])]
    assert main([command, *arguments]) == 1
    assert "needs 13.4 GiB of free GPU memory, and 8.0 GiB are free" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_rung_changes_memory_alone(base, references):
    """On one machine a second forward pass gives the same numbers, so losses after an update are equal bit for bit."""
    losses, peaks = [], []
    for rung in FLOAT32:
        fresh = load_base(str(base.folder), device="cpu")
        save_memory(fresh, rung)
        training = new_training(fresh, references, "dog", preset("paper", base.manifest.presets), seed=0)
        training.iterate()
        with AllocatedMemory(CPU) as memory:
            losses.append(training.iterate())
        peaks.append(memory.peak)
    assert losses[1] == losses[0]
    assert losses[2] == losses[0]
    assert peaks[0] > 1.05 * peaks[1]  # 89 and 78 MB: the UNets
    assert peaks[1] > 1.05 * peaks[2]  # 67 MB: the feature networks


def test_a_checkpoint_reads_no_random_state(monkeypatch):
    """Reading it fails while a CUDA graph is captured."""

    def refuse():
        raise AssertionError("the random state was read")

    monkeypatch.setattr(torch, "get_rng_state", refuse)
    x = torch.ones(2, 2, requires_grad=True)
    checkpointed(torch.tanh, x).sum().backward()
    assert x.grad is not None


def test_a_compiled_block_learns_the_same_in_a_checkpoint():
    torch.manual_seed(0)
    block, x = ResnetBlock2D(in_channels=32, temb_channels=None), torch.randn(1, 32, 4, 4)
    gradients = []
    for run in (nn.Module.__call__, checkpointed):
        block.zero_grad()
        run(block, x, None).square().sum().backward()
        gradients.append([parameter.grad for parameter in block.parameters()])
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    for plain, compiled in zip(*gradients, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-5)  # the same kernels, in another order


def test_a_checkpoint_compiles_without_a_graph_break():
    network = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
    x = torch.ones(2, 4, requires_grad=True)
    explained = torch._dynamo.explain(lambda x: checkpointed(network, x).sum())(x)
    assert explained.graph_break_count == 0
