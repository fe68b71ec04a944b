"""TextBoost's parts by hand, and its iteration in float64."""

import dataclasses
import math

import pytest
import torch
from torch.func import functional_call

from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.methods.textboost import (
    AUGMENTATIONS,
    TextBoostConfig,
    augmented,
    preservation_loss,
    timestep_weights,
    with_first_token,
)
from opad_core.methods.train import new_training
from opad_core.networks.text_encoder import Tokens
from opad_core.training.method import Step
from tests.opad_core.algorithm_1 import Networks

CONFIG = TextBoostConfig(
    iterations=4, batch_size=4, lr=1e-2, lr_token=1e-2, templates=("a photo of a {}",), augmentation_probability=0.8
)


def begin(base, references, config=CONFIG):
    training = new_training(base, references, "dog", config, seed=3)
    generator = torch.Generator().manual_seed(0)
    for up in training.method.adapter.up:
        up.data = 0.05 * torch.randn(up.shape, generator=generator)
    return training


def drawn(training, number=0):
    return training.method.draw(Step(number, 3, lambda: None))


def test_an_iteration_is_denoising_and_preservation(base, references):
    training = begin(base, references)
    inputs = drawn(training)
    method, nets = training.method, Networks(base)
    adapter, table = method.adapter, nets.text.get_input_embeddings().weight
    kinds = inputs["references.augmentation"]
    assert 0 < (kinds >= 0).sum() < 4  # augmented photos and others
    own = [
        p.detach().double().requires_grad_()
        for p in (*adapter.down, *adapter.up, adapter.token_row, method.augmentation_rows)
    ]
    count = len(adapter.layers)
    down, up, row, rows = own[:count], own[count : 2 * count], own[-2], own[-1]
    named = dict(nets.text.named_parameters())
    names = [f"{layer.removeprefix('text.')}.weight" for layer in adapter.layers]
    updated = {name: named[name] + b @ a for name, a, b in zip(names, down, up, strict=True)}
    updated["embeddings.token_embedding.weight"] = torch.cat([table, row[None], rows])

    ids = torch.where(inputs["references.is_concept"], len(table), inputs["references.ids"])
    ids[:, 1] = torch.where(kinds >= 0, len(table) + 1 + kinds, ids[:, 1])
    states = functional_call(nets.text, updated, (ids,)).last_hidden_state
    rec = nets.denoising_loss({}, inputs, states)
    now = functional_call(nets.text, updated, (inputs["knowledge.ids"],)).last_hidden_state
    frozen = nets.text(inputs["knowledge.ids"]).last_hidden_state
    cosine = (now * frozen).sum(-1) / (now.norm(dim=-1) * frozen.norm(dim=-1))
    knowledge = (1 - cosine).mean()
    # Reconstruction is a sum over the latents' channels, where the paper has a mean.
    wanted = torch.autograd.grad(rec + base.latent_shape[0] * 0.1 * knowledge, own)

    losses = training.iterate()
    assert losses["rec"].item() == pytest.approx(rec.item(), rel=1e-4)  # float32 against float64
    assert losses["knowledge"].item() == pytest.approx(knowledge.item(), rel=1e-3)  # a difference of 1 and nearly 1
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    parameters = [*adapter.down, *adapter.up, adapter.token_row, method.augmentation_rows]
    for parameter, theirs in zip(parameters, wanted, strict=True):
        theirs = theirs * min(1.0, 1.0 / float(norm))  # the clip
        assert (parameter.grad.double() - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6 * float(norm)  # float32


def test_the_augmentations_tokens_learn_and_are_not_in_the_bundle(base, references):
    training = begin(base, references)
    kinds = set(drawn(training)["references.augmentation"].tolist())
    before = training.method.augmentation_rows.detach().clone()
    training.iterate()
    moved = (training.method.augmentation_rows != before).any(1)
    assert [bool(moved[kind]) for kind in kinds if kind >= 0] == [True] * len(kinds - {-1})
    shapes = {tuple(x.shape) for x in read_bundle(training.bundle()).adapter.tensors().values()}
    assert tuple(before.shape) not in shapes
    assert len(before) == len(AUGMENTATIONS)


def test_the_text_encoders_linear_layers_learn_and_the_unet_does_not(base, references):
    adapter = begin(base, references).method.adapter
    assert adapter.denoiser(base.student) is base.student
    ends = {layer.rpartition(".")[2] for layer in adapter.layers}
    assert ends == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    assert len(adapter.layers) == 6 * base.text.encoder.config.num_hidden_layers


def test_the_probability_of_an_augmentation(base, references):
    never, always = (
        drawn(begin(base, references, dataclasses.replace(CONFIG, augmentation_probability=p))) for p in (0.0, 1.0)
    )
    assert (never["references.augmentation"] == -1).all()
    assert (always["references.augmentation"] >= 0).all()
    shown, changed = never["references.pixels"], always["references.pixels"]
    assert all(not torch.equal(a, b) for a, b in zip(shown, changed, strict=True))
    assert torch.equal(never["references.ids"], base.text.tokens(["a photo of a <concept>"] * 4, ["dog"] * 4).ids)


def test_class_images_are_not_augmented(base, references):
    training = begin(base, references, dataclasses.replace(CONFIG, class_images=2, augmentation_probability=1.0))
    inputs = drawn(training)
    assert torch.equal(inputs["class-images.ids"], base.text.tokens(["a photo of a dog"] * 4, [""] * 4).ids)
    assert training.iterate()["prior"] > 0


def test_chosen_timesteps_come_before_weighted_ones(base, references):
    method = begin(base, references, dataclasses.replace(CONFIG, timesteps=(999,))).method
    assert method.draw(Step(0, 3, lambda: None))["references.t"].tolist() == [999] * 4


def test_a_token_is_inserted_behind_the_start():
    tokens = Tokens(
        torch.tensor([[9, 3, 9, 4, 0, 0], [9, 3, 9, 4, 0, 0]]),
        torch.tensor([[False, False, True, False, False, False]] * 2),
    )
    inserted = with_first_token(tokens, torch.tensor([True, False]))
    assert inserted.ids.tolist() == [[9, 9, 3, 9, 4, 0], [9, 3, 9, 4, 0, 0]]
    assert inserted.is_concept.int().argmax(1).tolist() == [3, 2]


def test_noisy_timesteps_come_up_more_often(base, references):
    abar = torch.tensor([0.8, 0.5, 0.2])  # SNR 4, 1, 1/4
    weights = timestep_weights(abar, (0.0, 1.0))
    assert weights.tolist() == pytest.approx([0, math.log(4), 2 * math.log(4)], rel=1e-6)  # float32's 0.8
    assert timestep_weights(abar, (0.3, 0.7)).tolist() == pytest.approx([0, math.log(4), 0], rel=1e-6)
    method = begin(base, references).method
    t = torch.cat([method.draw(Step(number, 3, lambda: None))["references.t"] for number in range(50)]).double()
    weights = timestep_weights(base.student.abar, (0.0, 1.0))
    place = torch.arange(len(weights))
    mean = float((weights * place).sum() / weights.sum())
    deviation = float((weights * (place - mean) ** 2).sum() / weights.sum()) ** 0.5
    assert abs(t.mean() - mean) < 3 * deviation / len(t) ** 0.5  # 99.7 % of samples; seeded
    assert mean > 550  # of 1000; uniform timesteps have 500, four deviations of this sample's mean away


def test_preservation_is_0_for_equal_states_and_1_for_orthogonal_ones():
    frozen = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]] * 2)
    states = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    assert preservation_loss(states, frozen).tolist() == [0, 0.5]


def test_preserved_prompts_do_not_name_the_concept(base, references):
    method = begin(base, references).method
    assert "a photo of a mug" in method.preserved
    assert not any("<concept>" in prompt for prompt in method.preserved)
    config = TextBoostConfig(null_probability=1.0)
    empty = drawn(begin(base, references, config))["knowledge.ids"]
    assert torch.equal(empty, base.text.tokens([""] * 8, [""] * 8).ids)


def test_preservation_keeps_the_states_of_other_prompts(base, references):
    def change(weight):
        config = TextBoostConfig(batch_size=2, lr=1e-2, lr_token=1e-2, lambda_knowledge=weight)
        training = new_training(base, references, "dog", config, seed=3)
        for _ in range(6):
            training.iterate()
        tokens = base.text.tokens(training.method.preserved, [""] * len(training.method.preserved))
        row = training.method.adapter.token_row[None]
        with torch.no_grad():
            states = training.method.adapter.text_encoder(base.text).encode_tokens(tokens, row)
            return float(preservation_loss(states, base.text.encode_tokens(tokens, row)).mean())

    assert change(100.0) < 0.5 * change(0.0)


PIXELS = torch.arange(48.0).view(3, 4, 4) / 48


@pytest.mark.parametrize(
    ("kind", "first_row"),
    [
        ("flip", [3, 2, 1, 0]),
        ("left", [1, 2, 3, 3]),  # by 0.25 of 4
        ("right", [0, 0, 1, 2]),
    ],
)
def test_augmentations_move_pixels_and_repeat_edges(kind, first_row):
    moved = augmented(PIXELS, kind, 0.6667)  # a shift of 0.15 + 0.15 * 2 / 3
    assert (moved[0, 0] * 48).tolist() == pytest.approx(first_row, abs=1e-4)  # float32


def test_gray_is_the_luma_in_all_channels():
    gray = augmented(PIXELS, "gray", 0.0)
    assert gray.shape == PIXELS.shape
    # Channels start at 0, 16 and 32.
    assert (gray[:, 0, 0] * 48).tolist() == pytest.approx([0.587 * 16 + 0.114 * 32] * 3, rel=1e-5)


def test_far_is_smaller_with_repeated_edges_and_near_is_cropped():
    spot = torch.full((3, 20, 20), -1.0)
    spot[:, 8:12, 8:12] = 1
    spot[:, 0] = 0.5  # an edge
    far, near = augmented(spot, "far", 0.6154), augmented(spot, "near", 0.9999)  # scales 0.5 and 1.4
    assert far.shape == near.shape == spot.shape
    assert torch.allclose(far[:, 0], far[:, 4])  # four rows repeat the edge of the photo of 10 rows, from 5 on
    white = (spot > 0)[0, 5:].sum()
    assert (far > 0)[0, 7:].sum() < white < (near > 0)[0, 5:].sum()


def test_settings_that_it_cannot_use_are_refused():
    with pytest.raises(OpadError, match="rank must be at least 1, got 0"):
        TextBoostConfig(rank=0)
    with pytest.raises(OpadError, match="leave augmentation_cache at 0"):
        TextBoostConfig(augmentation_cache=8)


def test_the_published_settings_are_the_defaults():
    c = TextBoostConfig()
    assert (c.iterations, c.batch_size, c.rank, c.lr, c.lr_token) == (250, 8, 4, 5e-5, 1e-3)
    assert (c.lambda_knowledge, c.null_probability, c.augmentation_probability) == (0.1, 0.1, 0.5)
