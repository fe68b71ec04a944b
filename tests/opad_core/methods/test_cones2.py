"""Cones 2's parts by hand, and its iteration in float64."""

import copy
import dataclasses

import pytest
import torch

from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.methods.cones2 import Cones2Config, mean_residual, preservation_loss
from opad_core.methods.train import new_training
from opad_core.training.method import Step
from tests.opad_core.algorithm_1 import Networks

# The weight is larger than published, so that the loss counts in the gradients.
CONFIG = Cones2Config(
    iterations=4, batch_size=2, lr=1e-3, templates=("a photo of a {}",), lambda_preservation=0.1, residual_every=2
)


def begin(base, references, config=CONFIG):
    return new_training(base, references, "dog", config, seed=3)


def drawn(training, number=0):
    return training.method.draw(Step(number, 3, lambda: None))


def place_of_dog(base, ids):
    return (ids == base.text.tokenizer("dog", add_special_tokens=False).input_ids[0]).int().argmax(1)


def test_an_iteration_is_denoising_and_preservation(base, references):
    training = begin(base, references)
    training.iterate()  # so that the encoders differ
    inputs = drawn(training, 1)
    nets = Networks(base)
    learned = copy.deepcopy(training.method.learned_text.encoder).double()
    prompts = base.text.tokens(["a photo of a dog"] * 2, [""] * 2).ids
    rec = nets.denoising_loss({}, inputs, learned(prompts).last_hidden_state)
    ids = torch.stack([row[~mask] for row, mask in zip(*sentences(inputs), strict=True)])  # without V*
    ids = torch.cat([ids, ids[:, -1:]], 1)  # and with one more padding
    change = learned(ids).last_hidden_state - nets.text(ids).last_hidden_state
    place = place_of_dog(base, ids)
    others = [torch.cat([c[:p], c[p + 1 :]]) for c, p in zip(change, place, strict=True)]
    preservation = torch.stack([c.square().sum().sqrt() for c in others]).mean()
    own = list(learned.parameters())
    # Reconstruction is a sum over the latents' channels, where the paper has a mean.
    wanted = torch.autograd.grad(rec + base.latent_shape[0] * 0.1 * preservation, own, materialize_grads=True)

    losses = training.iterate()
    assert losses["rec"].item() == pytest.approx(rec.item(), rel=1e-4)  # float32 against float64
    assert losses["preservation"].item() == pytest.approx(preservation.item(), rel=1e-3)  # a difference
    norm = torch.cat([g.flatten() for g in wanted]).norm()
    parameters = list(training.method.learned_text.encoder.parameters())
    for parameter, theirs in zip(parameters, wanted, strict=True):
        theirs = theirs * min(1.0, 1.0 / float(norm))  # the clip
        assert (parameter.grad.double() - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6 * float(norm)  # float32


def sentences(inputs):
    return inputs["sentences.ids"], inputs["sentences.is_concept"]


def test_preservation_counts_all_tokens_but_the_nouns():
    frozen = torch.zeros(1, 3, 2)
    states = torch.tensor([[[3.0, 0.0], [50.0, 60.0], [0.0, 4.0]]])
    assert preservation_loss(states, frozen, torch.tensor([[[0.0, 1.0, 0.0]]])).tolist() == [5.0]


def test_the_residual_is_the_mean_change_at_the_noun():
    change = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    places = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    assert mean_residual(change, places).tolist() == [[4.0, 5.0]]


def test_the_concept_is_what_the_encoder_learned_at_the_noun(base, references):
    training = begin(base, references)
    method = training.method
    training.iterate()
    assert not method.adapter.residual.any()
    training.iterate()  # residual_every is 2
    ids = base.text.tokens([text.replace("<concept>", "dog") for text in method.sentences], [""] * 6).ids
    with torch.no_grad():
        learned, plain = (x(ids).last_hidden_state for x in (method.learned_text.encoder, base.text.encoder))
    place = place_of_dog(base, ids)
    wanted = (learned - plain)[torch.arange(len(ids)), place].mean(0, keepdim=True)
    torch.testing.assert_close(method.adapter.residual, wanted, rtol=1e-4, atol=1e-5)  # another order of the sum
    assert torch.equal(read_bundle(training.bundle()).adapter.residual, method.adapter.residual)


def test_the_residual_is_computed_before_an_evaluation_and_at_the_end(base, references):
    config = dataclasses.replace(CONFIG, iterations=11, residual_every=5, eval_every=3)
    method = begin(base, references, config).method
    due = [n for n in range(11) if "residual.ids" in method.draw(Step(n, 3, lambda: None))]
    assert [n + 1 for n in due] == [3, 5, 6, 9, 10, 11]


def test_a_resumed_training_has_encoder_and_residual(base, references):
    training = begin(base, references)
    training.iterate()
    training.iterate()
    state = training.snapshot().to_bytes()
    again = begin(base, references)
    again.load(again.read(state))
    assert again.method.adapter.residual.any()
    for one in (training, again):
        one.iterate()
    assert torch.equal(training.method.adapter.residual, again.method.adapter.residual)
    ours, theirs = (one.method.learned_text.encoder.parameters() for one in (training, again))
    assert all(map(torch.equal, ours, theirs))


def test_the_encoder_learns_and_is_not_in_the_bundle(base, references):
    training = begin(base, references)
    before = [p.detach().clone() for p in training.method.learned_text.encoder.parameters()]
    training.iterate()
    assert not any(map(torch.equal, before, training.method.learned_text.encoder.parameters()))
    assert read_bundle(training.bundle()).adapter.tensors().keys() == {"residual"}


def test_settings_that_it_cannot_use_are_refused():
    with pytest.raises(OpadError, match="residual_every must be at least 1, got 0"):
        Cones2Config(residual_every=0)


def test_the_codes_settings_are_the_defaults():
    c = Cones2Config()
    assert (c.iterations, c.batch_size, c.lr, c.lambda_preservation) == (3000, 1, 5e-6, 1e-3)
