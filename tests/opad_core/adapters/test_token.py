import numpy as np
import pytest
import torch
from torch import nn

from opad_core.adapters.adapter import text_states_of
from opad_core.adapters.token import TokenAdapter
from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.export import export_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator


def bundle_of(base, row):
    adapter = TokenAdapter(nn.Parameter(row))
    return read_bundle(
        write_bundle(
            adapter, method="toy", class_noun="dog", base="nano", base_sha256=base.manifest.sha256, config={}, seed=0
        )
    )


def test_the_word_alone_changes_the_image(base):
    """V* with the row of "dog" gives the untouched student's "dog dog"; another row gives another image."""
    generator = OneStepGenerator(base)
    same = bundle_of(base, base.text.embedding_of("dog"))
    other = bundle_of(base, torch.ones_like(same.adapter.token_row))
    untouched, word, changed = generator.generate(
        [
            ImageRequest(None, "a dog dog", 3),
            ImageRequest(same, "a <concept>", 3),
            ImageRequest(other, "a <concept>", 3),
        ]
    )
    assert np.array_equal(word, untouched)
    assert not np.array_equal(changed, untouched)


def test_its_bundle_holds_one_row(base):
    row = torch.randn(base.text.encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))
    bundle = bundle_of(base, row)
    assert (bundle.manifest["adapter"], list(bundle.adapter.tensors())) == ("token", ["token_row"])
    assert torch.equal(bundle.adapter.token_row, row)


def test_keys_values_are_those_of_the_unet(base):
    adapter = TokenAdapter.initial(base.text.embedding_of("dog"))
    states = text_states_of(adapter, base.text, ["a <concept>"], "dog")
    for layer, (key, value) in adapter.keys_values(states, base.student).items():
        attention = base.student.unet.get_submodule(layer)
        assert torch.equal(key, states @ attention.to_k.weight.T)
        assert torch.equal(value, states @ attention.to_v.weight.T)


def test_its_row_receives_a_gradient_and_the_unet_none(base):
    adapter = TokenAdapter.initial(base.text.embedding_of("dog"))
    states = text_states_of(adapter, base.text, ["a <concept>"], "dog")
    sum(v.sum() for _, v in adapter.keys_values(states, base.student).values()).backward()
    assert adapter.token_row.grad.norm() > 0
    assert all(p.grad is None for p in base.student.unet.parameters())


def test_it_is_not_exported_as_a_lora(base):
    with pytest.raises(OpadError, match="only key/value concepts are exported, and this one's adapter is 'token'"):
        export_bundle(bundle_of(base, base.text.embedding_of("dog")), base)


@pytest.mark.parametrize("tensors", [{}, {"token_row": torch.zeros(4), "other": torch.zeros(1)}])
def test_other_tensors_are_refused(tensors):
    with pytest.raises(OpadError, match="must hold one token row"):
        TokenAdapter.from_tensors(tensors)


def test_a_row_of_another_base_is_refused(base):
    with pytest.raises(OpadError, match="do not fit the base"):
        OneStepGenerator(base).generate([ImageRequest(bundle_of(base, torch.zeros(7)), "a <concept>", 1)])
