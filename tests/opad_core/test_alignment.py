import torch

from opad_core.alignment import teacher_target


def test_guidance_of_one_asks_the_teacher_with_text_alone(base):
    """The short way gives what the long one does next to it; one float32 step away, rounding is the difference."""
    generator = torch.Generator().manual_seed(0)
    z, eps = (torch.randn(2, *base.latent_shape, generator=generator) for _ in range(2))
    states, null_states = (base.text.encode([prompt] * 2, [""] * 2, [None] * 2) for prompt in ("a photo of a dog", ""))
    targets = [
        teacher_target(
            base.teacher, base.teacher.new_projections(), z, eps, torch.tensor([300, 900]),
            text_states=states, null_states=null_states[:1], guidance=guidance,
        )
        for guidance in (1.0, 1.0000001)
    ]  # fmt: skip
    torch.testing.assert_close(targets[0], targets[1], atol=1e-4, rtol=0)
