import numpy as np
import pytest
import torch
from torch import nn

from opad_core.adapters.adapter import text_states_of
from opad_core.adapters.residual import ResidualAdapter, noun_places, without_concept
from opad_core.errors import OpadError
from opad_core.generation.bundle import MIXED_ADAPTERS, read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.networks.text_encoder import Tokens


def bundle_of(base, residual):
    data = write_bundle(
        ResidualAdapter(nn.Parameter(residual)), method="toy", class_noun="dog", base="nano",
        base_sha256=base.manifest.sha256, config={}, seed=0,
    )  # fmt: skip
    return read_bundle(data, adapters=MIXED_ADAPTERS)


def random_residual(base):
    return torch.randn(1, *base.text.row_shape, generator=torch.Generator().manual_seed(0))


def test_a_residual_of_0_is_the_noun(base):
    adapter = ResidualAdapter.initial(base.text, "dog")
    states = text_states_of(adapter, base.text, ["a photo of a <concept> at night"], "dog")
    plain = base.text.encode(["a photo of a dog at night"], [""], [None])
    assert torch.equal(states, plain)


def test_it_changes_the_state_of_the_noun_alone(base):
    residual = random_residual(base)
    adapter = ResidualAdapter(nn.Parameter(residual))
    prompts = ["a photo of a <concept> at night", "<concept>"]
    states = text_states_of(adapter, base.text, prompts, "dog")
    plain = base.text.encode(["a photo of a dog at night", "dog"], [""] * 2, [None] * 2)
    change = states - plain
    for k, place in enumerate((5, 1)):  # start token, four words, noun
        torch.testing.assert_close(change[k, place], residual[0], rtol=1e-5, atol=1e-5)  # float32's sum
        change[k, place] = 0
    assert not change.any()


def test_v_star_leaves_the_prompt():
    tokens = Tokens(
        torch.tensor([[9, 3, 9, 4, 5, 0], [9, 9, 4, 5, 3, 0]]),
        torch.tensor([[False, False, True, False, False, False], [False, True, False, False, False, False]]),
    )
    assert without_concept(tokens, padding=0).tolist() == [[9, 3, 4, 5, 0, 0], [9, 4, 5, 3, 0, 0]]
    assert noun_places(tokens, 2).argmax(2).tolist() == [[2, 3], [1, 2]]
    assert noun_places(tokens, 2).sum().item() == 4


def test_a_noun_beyond_the_end_has_no_place():
    tokens = Tokens(torch.tensor([[9, 3, 9, 4]]), torch.tensor([[False, False, False, True]]))
    assert noun_places(tokens, 2).tolist() == [[[0, 0, 0, 1], [0, 0, 0, 0]]]


def test_a_prompt_without_a_concept_stays_as_it_is(base):
    adapter = ResidualAdapter(nn.Parameter(random_residual(base)))
    states = adapter.token_states(base.text, base.text.tokens(["a photo of a dog"], [""]))
    assert torch.equal(states, base.text.encode(["a photo of a dog"], [""], [None]))


def test_each_token_of_a_noun_has_a_residual(base):
    assert ResidualAdapter.initial(base.text, "dog").residual.shape == (1, *base.text.row_shape)
    assert ResidualAdapter.initial(base.text, "dog mug").residual.shape == (2, *base.text.row_shape)


def test_concepts_are_mixed_in_a_batch(base):
    mine, other = bundle_of(base, random_residual(base)), bundle_of(base, -random_residual(base))
    assert mine.adapter.denoiser(base.student) is base.student
    requests = [
        ImageRequest(mine, "a photo of a <concept>", 5),
        ImageRequest(None, "a photo of a dog", 5),
        ImageRequest(other, "a photo of a <concept>", 5),
    ]
    together = OneStepGenerator(base).generate(requests)
    for image, request in zip(together, requests, strict=True):
        [alone] = OneStepGenerator(base).generate([request])
        assert np.abs(image.astype(int) - alone).max() <= 1  # another batch size may round differently
    assert np.abs(together[0].astype(int) - together[1]).mean() > 1
    assert np.abs(together[0].astype(int) - together[2]).mean() > 1


@pytest.mark.parametrize("tensors", [{}, {"residual": torch.zeros(1, 4), "other": torch.zeros(1)}])
def test_other_tensors_are_refused(tensors):
    with pytest.raises(OpadError, match="must hold one residual"):
        ResidualAdapter.from_tensors(tensors)


def test_a_residual_of_another_base_is_refused(base):
    with pytest.raises(OpadError, match="do not fit the base"):
        OneStepGenerator(base).generate([ImageRequest(bundle_of(base, torch.zeros(1, 7)), "a <concept>", 1)])


@pytest.mark.parametrize("shape", [(), (8,), (0, 8), (1, 1, 8)])
def test_a_residual_of_another_shape_is_refused(shape):
    with pytest.raises(OpadError, match=r"must be \[n, d\] with n >= 1"):
        ResidualAdapter.from_tensors({"residual": torch.zeros(shape)})
