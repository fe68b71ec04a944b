import copy

import pytest
import torch
from transformers import CLIPTokenizer

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError
from opad_core.networks.text_encoder import TextEncoder
from tests.opad_core.networks.test_feature_networks import Attentions


def test_the_text_encoder_agrees_with_transformers_own_forward(base):
    """Theirs adds a causal mask to the products of queries and keys."""
    masked = copy.deepcopy(base.text.encoder)
    masked.set_attn_implementation("eager")
    ids, position = base.text.token_ids("a photo of a dog", "")
    assert position is None
    theirs = masked(torch.tensor([ids])).last_hidden_state
    ours = base.text.encode(["a photo of a dog"], [""], [None])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)  # another attention kernel


def test_attention_is_a_causal_flash_kernel_without_a_mask(base):
    """On CUDA a mask rules the flash kernel out."""
    half = load_base(str(base.folder), device="cpu", precision="half")
    last_layer = copy.deepcopy(half.text.encoder.encoder.layers[-1]).float()
    with Attentions() as seen:
        half.text.encode(["a photo of a dog"], [""], [None])
        half.text.pooled_embedding(["a photo of a dog"], last_layer)
    layers = 2 + 2 + 1
    assert seen.kernels == [("_scaled_dot_product_flash_attention_for_cpu", None, True)] * layers


def test_compiled_layers_encode_and_learn_the_same(base):
    """Without a graph break, as on CUDA."""
    compiled = copy.deepcopy(base.text.encoder)
    for layer in compiled.encoder.layers:
        layer.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    states, gradients = [], []
    for text in (base.text, TextEncoder(base.text.tokenizer, compiled)):
        row = base.text.embedding_of("dog").requires_grad_()
        states.append(text.encode(["a <concept>"], ["dog"], [row]))
        gradients += torch.autograd.grad(states[-1].square().sum(), row)
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=0)  # float32 sums of 128, in another order
    assert (gradients[1] - gradients[0]).norm() <= 1e-4 * gradients[0].norm()  # the same


def test_the_placeholder_becomes_the_learned_token_and_the_noun(base):
    ids, position = base.text.token_ids("a photo of a <concept> on the beach", "dog")
    plain, _ = base.text.token_ids("a photo of a dog on the beach", "")
    assert position == 5  # after the start mark and four words
    assert ids[:5] == plain[:5]
    assert ids[6:12] == plain[5:11]


def test_a_prompt_is_padded_with_the_tokenizers_padding_token(base, tmp_path):
    """SD 2.1 pads with "!", CLIP's tokenizer with the end token."""
    base.text.tokenizer.save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, pad_token="!")
    pad = tokenizer.convert_tokens_to_ids("!")
    assert pad != tokenizer.eos_token_id
    ids, _ = TextEncoder(tokenizer, base.text.encoder).token_ids("a dog", "")
    assert ids[4:] == [pad] * 20  # of 24: start, "a", "dog", end
    assert ids[3] == tokenizer.eos_token_id


def test_a_prompt_that_is_too_long_loses_only_its_end(base):
    ids, _ = base.text.token_ids("a photo of a dog " * 8, "")
    whole, _ = base.text.token_ids("a photo of a dog", "")
    assert len(ids) == 24
    assert ids[-1] == base.text.tokenizer.eos_token_id
    assert ids[:23] == [whole[0], *(whole[1:6] * 5)[:22]]


UNREAD = {
    "short": ("a dog on the beach", ""),
    "as long as the encoder": ("a " * 22, ""),  # of 24 tokens, two are the marks of start and end
    "one word more": ("a " * 22 + "dog", "dog"),
    "in the middle of a word": ("a " * 20 + "zzzz dog", "zzzz dog"),  # four letters are four tokens
    "with the concept at the start": ("<concept> " + "a " * 20, ""),
    "with the concept and one word more": ("<concept> " + "a " * 20 + "beach", "beach"),
    "with the concept near the end": ("a " * 20 + "<concept> on the beach", "on the beach"),
    "within the class noun": ("a " * 21 + "<concept> on the beach", "dog on the beach"),
}


@pytest.mark.parametrize(("prompt", "end"), UNREAD.values(), ids=UNREAD)
def test_the_end_that_is_not_read_is_named(base, prompt, end):
    assert base.text.unread(prompt, "dog") == end


def test_the_concept_may_be_the_last_word_before_the_end(base):
    ids, position = base.text.token_ids("a " * 21 + "<concept>", "dog")
    assert position == 22
    assert (len(ids), ids[23]) == (24, base.text.tokenizer.eos_token_id)


def test_an_exact_entry_is_a_words_beginning_or_the_end_token(base):
    """Whole words have an end-of-word mark, so the entry "d" is not the word "d", and "dog" is not an entry."""
    rows = base.text.encoder.get_input_embeddings().weight
    vocabulary = base.text.tokenizer.get_vocab()
    assert torch.equal(base.text.entry_of("d"), rows[vocabulary["d"]])
    assert not torch.equal(base.text.entry_of("d"), base.text.embedding_of("d"))
    assert torch.equal(base.text.entry_of("dog"), rows[base.text.tokenizer.eos_token_id])
    assert torch.equal(base.text.embedding_of("dog"), rows[vocabulary["dog</w>"]])


def test_a_token_row_equal_to_a_word_encodes_as_that_word(base):
    row = base.text.embedding_of("robot")
    learned = base.text.encode(["a <concept>"], ["dog"], [row])
    spelled = base.text.encode(["a robot dog"], [""], [None])
    torch.testing.assert_close(learned, spelled, atol=1e-6, rtol=0)


def test_the_gradient_reaches_the_token_row_but_no_weight(base):
    row = base.text.embedding_of("dog").requires_grad_()
    base.text.encode(["a <concept>"], ["dog"], [row]).sum().backward()
    assert row.grad.abs().sum() > 0
    assert all(p.grad is None for p in base.text.encoder.parameters())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a <concept> and a <concept>", "names <concept> 2 times; name it once"),
        # of 24 tokens the first is the start mark and the last the end mark
        ("a " * 22 + "<concept>", "<concept> comes after 23 words; it must be among the first 22"),
    ],
)
def test_an_invalid_prompt_says_why(base, prompt, message):
    with pytest.raises(OpadError, match=message):
        base.text.token_ids(prompt, "dog")


def test_a_pooled_embedding_is_the_text_encoders_pooler_output(base):
    prompts = ["a photo of a dog", "a robot in the snow"]
    tokenizer, encoder = base.text.tokenizer, base.text.encoder
    ids = tokenizer(prompts, padding="max_length", max_length=24, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = encoder(ids).pooler_output
    torch.testing.assert_close(base.text.pooled_embedding(prompts), expected, atol=1e-5, rtol=0)  # float32 sums of 128


def test_text_fit_is_the_cosine_of_both_sides_of_clip(base):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["a photo of a dog", "a robot in the snow"]
    with torch.no_grad():
        images = base.identity.network.clip(pixel_values=(x * 0.5 + 0.5 - 0.5) / 0.5).image_embeds
    words = base.text.pooled_embedding(prompts) @ base.text_projection.T
    expected = (images * words).sum(1) / images.norm(dim=1) / words.norm(dim=1)
    torch.testing.assert_close(base.text_fit(x, prompts), expected, atol=1e-6, rtol=0)  # cosines, in another order
