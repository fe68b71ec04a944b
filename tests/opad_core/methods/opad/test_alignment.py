import dataclasses

import pytest
import torch

from opad_core.adapters.key_value import pretrained_projections
from opad_core.methods.opad.alignment import alignment_losses, alignment_weight, teacher_target
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.losses import ms_swd, swd_filters


def test_guidance_of_one_needs_only_the_prediction_with_text(base):
    """Guidance of 1 skips the prediction without text. The next float32 number does not, and gives nearly the same."""
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(2, *base.latent_shape, generator=generator) for _ in range(2))
    states, null_states = (base.text.encode([prompt] * 2, [""] * 2, [None] * 2) for prompt in ("a photo of a dog", ""))
    targets = [
        teacher_target(
            base.teacher, pretrained_projections(base.teacher), z, eps, torch.tensor([300, 900]),
            text_states=states, null_states=null_states[:1], guidance=guidance,
        )
        for guidance in (1.0, 1.0000001)
    ]  # fmt: skip
    torch.testing.assert_close(targets[0], targets[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("unit_range", [True, False])
def test_the_three_distances_are_the_losses_with_their_weights(base, unit_range):
    generator = torch.Generator().manual_seed(0)
    config = dataclasses.replace(
        OpadConfig(), lambda_id=0.25, lambda_mse=0.5, lambda_swd=0.75, swd_unit_range=unit_range, swd_levels=2,
        swd_projections=4, swd_patch=5,
    )  # fmt: skip
    z, z_target = (torch.randn(2, *base.latent_shape, generator=generator) for _ in range(2))
    x, x_target = (torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    filters = swd_filters(2, 4, 5, generator=generator)
    with torch.no_grad():
        ours, theirs = (base.identity(i, resize_mode="bilinear", normalize=False) for i in (x, x_target))
        found = alignment_losses(
            base, config, z_student=z, x_student=x, identity=ours, z_target=z_target, x_target=x_target,
            filters=filters,
        )  # fmt: skip
    a, b = ((x + 1) / 2, (x_target + 1) / 2) if unit_range else (x, x_target)
    expected = {
        "id": (0.25, 1 - torch.cosine_similarity(ours, theirs, dim=-1).mean(1)),
        "mse": (0.5, 0.5 * (z - z_target).square().mean((1, 2, 3))),
        "swd": (0.75, ms_swd(a, b, filters)),
    }
    assert found.keys() == expected.keys()
    for name, (weight, values) in expected.items():
        assert found[name][0] == weight
        torch.testing.assert_close(found[name][1], values, atol=1e-6, rtol=1e-5)  # float32 sums in another order


def test_a_target_is_the_teachers_guided_prediction_from_the_students_latents(base):
    """Expected by hand: v = v_none + 7.5 (v_text - v_none) and x0 = sqrt(a) z_t - sqrt(1 - a) v."""
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(2, *base.latent_shape, generator=generator) for _ in range(2))
    states, nothing = (base.text.encode([prompt] * 2, [""] * 2, [None] * 2) for prompt in ("a photo of a dog", ""))
    projections, t = pretrained_projections(base.teacher), torch.tensor([300, 900])
    target = teacher_target(
        base.teacher, projections, z, eps, t, text_states=states, null_states=nothing[:1], guidance=7.5
    )  # fmt: skip
    a = base.teacher.abar[t].view(2, 1, 1, 1)
    z_t = a.sqrt() * z + (1 - a).sqrt() * eps
    with torch.no_grad():
        v_text, v_none = (base.teacher.predict(z_t, t, projections(s)) for s in (states, nothing))
    expected = a.sqrt() * z_t - (1 - a).sqrt() * (v_none + 7.5 * (v_text - v_none))
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=0)  # two float32 passes, in other batches, times 7.5


def test_the_weight_of_a_target_is_abar_or_one():
    abar = torch.tensor([0.9, 0.1])
    assert alignment_weight(OpadConfig(), abar).tolist() == abar.tolist()
    assert alignment_weight(dataclasses.replace(OpadConfig(), target_weight="uniform"), abar).tolist() == [1.0, 1.0]
