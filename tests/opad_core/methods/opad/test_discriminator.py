import torch

from opad_core.methods.opad.discriminator import discriminator_head


def test_a_backbone_stays_frozen(base):
    for backbone in base.backbones:
        backbone.train()
        backbone.requires_grad_(True)
        assert not any(module.training for module in backbone.network.modules())
        assert not any(p.requires_grad for p in backbone.parameters())


def test_the_gradient_reaches_the_pixels(base):
    for backbone in base.backbones:
        x = torch.zeros(1, 3, 64, 64, requires_grad=True)
        backbone(x, resize_mode="bicubic", normalize=True).square().sum().backward()
        assert x.grad.abs().sum() > 0


def test_a_head_depends_only_on_its_generator():
    first, second = (discriminator_head(8, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
