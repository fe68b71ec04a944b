"""The counted memory: against what PyTorch's allocator reports on a CPU, and against the figures of the ladder."""

import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from opad_core.bases.loading import load_base
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training
from opad_core.peak_memory import AllocatedMemory, count_memory
from opad_core.training.config import override
from opad_core.training.memory import FLOAT32, HALF, save_memory


@pytest.mark.parametrize("rung", [FLOAT32[0], FLOAT32[2]], ids=["plain", "saving"])
def test_the_count_equals_what_the_allocator_reports(rung, base, references):
    """Of a training and its first two iterations, without the networks. Kernels use up to 3 % more inside."""
    fresh = load_base(str(base.folder), device="cpu")
    fresh.load("training")
    save_memory(fresh, rung)
    networks = [fresh.text.encoder, fresh.vae, fresh.teacher.unet, fresh.student.unet, *fresh.backbones]
    with AllocatedMemory(torch.device("cpu")) as memory:
        for network in networks:
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.detach()  # an operation, so the tensor is counted
        before = memory.now
        gc.collect()  # else the freeing of what the other case left would be reported, too
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as reported:
            training = new_training(fresh, references, "dog", preset("paper", base.manifest.presets), seed=0)
            training.iterate()
            training.iterate()
    now = peak = 0
    events = [e for e in reported.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert memory.peak - before == pytest.approx(peak, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("rung", FLOAT32 + HALF)
def test_the_ladder_has_the_counted_figures(rung):
    """Within 5 %, which a trainer adds anyway."""
    counted = count_memory(preset("default", {}), rung)
    assert counted.networks_gib == pytest.approx(rung.networks_gib, rel=0.05)
    assert counted.iteration_gib == pytest.approx(2 * rung.image_gib, rel=0.05)
    assert counted.generation_gib == pytest.approx(rung.generation_gib, abs=0.1)


@pytest.mark.slow
def test_activations_grow_with_the_batch():
    for name, size in (("default", 4), ("paper", 2)):
        config = override(preset(name, {}), {"batch_size": size})
        assert count_memory(config, HALF[1]).iteration_gib == pytest.approx(size * HALF[1].image_gib, rel=0.05)
