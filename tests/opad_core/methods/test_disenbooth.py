"""DisenBooth's parts by hand, and its iteration in float64."""

import dataclasses

import pytest
import torch

from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.methods.disenbooth import DisenBoothConfig, IrrelevantBranch, check_widths, contrastive_loss
from opad_core.methods.dreambooth import rare_row
from opad_core.methods.train import new_training
from opad_core.training.method import Step, no_hook
from tests.opad_core.algorithm_1 import Networks

# The weights are larger than published, so that each loss counts in the gradients.
CONFIG = DisenBoothConfig(
    iterations=3, batch_size=2, lr=1e-2, templates=("a photo of a {}",), lambda_weak=0.5, lambda_contrastive=2.0
)


def begin(base, references, config=CONFIG):
    training = new_training(base, references, "dog", config, seed=3)
    generator = torch.Generator().manual_seed(0)
    for up in training.method.adapter.up:
        up.data = 0.05 * torch.randn(up.shape, generator=generator)
    return training


def test_an_iteration_denoises_with_and_without_the_irrelevant_embedding(base, references):
    training = begin(base, references)
    method, nets = training.method, Networks(base)
    adapter, branch = method.adapter, method.branch
    inputs = method.draw(Step(0, 3, lambda: None))
    parameters = [*adapter.down, *adapter.up, *branch.parameters()]
    own = [p.detach().double().requires_grad_() for p in parameters]
    count = len(adapter.layers)
    down, up, (mask, w1, b1, w2, b2) = own[:count], own[count : 2 * count], own[2 * count :]
    named = dict(nets.student.named_parameters())
    names = [f"{layer.removeprefix('unet.')}.weight" for layer in adapter.layers]
    weights = {name: named[name] + b @ a for name, a, b in zip(names, down, up, strict=True)}

    text = nets.encode(["a photo of a <concept>"] * 2, adapter.token_row.double())
    pixels = inputs["references.pixels"].double()
    f = nets.backbones[2].clip(pixel_values=pixels).image_embeds  # its mean and deviation are 0.5: [-1, 1] stays
    masked = f / (1 + torch.exp(-mask))
    irrelevant = masked + (masked @ w1.T + b1).clamp(min=0) @ w2.T + b2
    rec = nets.denoising_loss(weights, inputs, text + irrelevant[:, None])
    weak = nets.denoising_loss(weights, inputs, text)
    mean = text.mean(1)
    contrastive = ((mean * irrelevant).sum(1) / (mean.norm(dim=1) * irrelevant.norm(dim=1))).mean()
    # Reconstruction is a sum over the latents' channels, where the paper has a mean.
    total = rec + 0.5 * weak + 2.0 * base.latent_shape[0] * contrastive
    wanted = torch.autograd.grad(total, own)

    losses = training.iterate()
    for name, value in (("rec", rec), ("weak", weak), ("contrastive", contrastive)):
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)  # float32 against float64
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    for parameter, theirs in zip(parameters, wanted, strict=True):
        theirs = theirs * min(1.0, 1.0 / float(norm))  # the clip
        assert (parameter.grad.double() - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6 * float(norm)  # float32


def test_the_branch_masks_and_changes_the_embedding():
    branch = IrrelevantBranch(2, generator=torch.Generator().manual_seed(0))
    branch.mlp[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    branch.mlp[2].weight.data = torch.tensor([[0.0, 1.0], [10.0, 0.0]])
    branch.mlp[0].bias.data.zero_()
    branch.mlp[2].bias.data = torch.tensor([0.0, 1.0])
    # Half of (2, 4) is (1, 2). ReLU leaves (1, 0) of (1, -2), which becomes (0, 10), and with the bias (0, 11).
    assert branch(torch.tensor([[2.0, 4.0]])).tolist() == [[1.0, 13.0]]


def test_the_contrastive_loss_is_the_cosine_with_the_mean_text_state():
    text_states = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 3.0], [0.0, 1.0]]])
    assert contrastive_loss(text_states, torch.tensor([[-5.0, 0.0], [3.0, 4.0]])).tolist() == pytest.approx([-1.0, 0.8])


def test_the_branch_learns_and_is_not_in_the_bundle(base, references):
    training = begin(base, references)
    before = [p.detach().clone() for p in training.method.branch.parameters()]
    encoder = [p.clone() for p in base.identity.network.parameters()]
    training.iterate()
    assert not any(map(torch.equal, before, training.method.branch.parameters()))
    assert all(map(torch.equal, encoder, base.identity.network.parameters()))
    tensors = read_bundle(training.bundle()).adapter.tensors()
    assert all(name == "token_row" or name.endswith((".down", ".up")) for name in tensors)


def test_the_branch_of_a_resumed_training_is_the_same(base, references):
    training = begin(base, references)
    training.iterate()
    state = training.snapshot().to_bytes()
    training.iterate()
    again = new_training(base, references, "dog", CONFIG, seed=3)
    again.load(again.read(state))
    again.iterate()
    assert all(map(torch.equal, training.method.branch.parameters(), again.method.branch.parameters()))


def test_a_cache_holds_the_image_embeddings(base, references):
    config = dataclasses.replace(CONFIG, augmentation_cache=4)
    training = begin(base, references, config)
    method = training.method
    inputs = method.draw(Step(0, 3, lambda: None))
    assert "references.pixels" not in inputs
    found = method._image_embedding(inputs, "references")
    pixels = training.data.pixels  # without augmentation a reference has one view
    embeddings, latents = base.identity.embedding(pixels), base.encode(pixels, torch.zeros(4, *base.latent_shape))
    shown = torch.cdist(inputs["references.latents"].flatten(1), latents.flatten(1)).argmin(1)
    torch.testing.assert_close(found, embeddings[shown], rtol=1e-4, atol=1e-5)  # another batch size
    method.learn(inputs, no_hook)


def test_the_word_is_rare_and_fixed(base, references):
    training = begin(base, references)
    row = rare_row(base, training.data.start_row, seed=3)
    training.iterate()
    assert torch.equal(training.method.adapter.token_row, row)
    assert training.method.adapter.token_row.grad is None


def test_settings_that_it_cannot_use_are_refused():
    with pytest.raises(OpadError, match="rank must be at least 1, got 0"):
        DisenBoothConfig(rank=0)
    with pytest.raises(OpadError, match="on the base 'small' they have 7 and 128 dimensions"):
        check_widths("small", images=7, states=128)


def test_the_published_settings_are_the_defaults():
    c = DisenBoothConfig()
    assert (c.iterations, c.batch_size, c.rank, c.lr) == (3000, 1, 4, 1e-4)
    assert (c.lambda_weak, c.lambda_contrastive, c.class_images) == (0.01, 0.001, 0)
