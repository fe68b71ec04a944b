"""What OPAD learns about a concept, and how it enters the networks.

OPAD trains one token row V* and the key and value projections of the cross-attention layers (16 in SD 2.1). Text
reaches the UNet nowhere else, so here the projections are taken out of it: the text side computes the keys and values
of every layer, and the UNet receives them as inputs. One frozen UNet then serves all concepts, mixed in one batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from opad_core.errors import OpadError
from opad_core.schedule import T_MAX, first_latents, predict_x0

PLACEHOLDER = "<concept>"
"""In a prompt it stands for the learned thing; it expands to V* followed by the class noun."""

KeysValues = dict[str, tuple[Tensor, Tensor]]
"""Per cross-attention layer: keys and values, each [b, tokens, inner]."""


class _SelfAttention(AttnProcessor2_0):  # type: ignore[misc]  # diffusers has no types
    """diffusers hands `cross_attention_kwargs` to self-attention too and warns of unknown names: accept, ignore."""

    def __call__(  # type: ignore[no-untyped-def]  # passed through as it is
        self, attn: Attention, hidden_states: Tensor, *args, keys_values: KeysValues | None = None, **kwargs
    ) -> Tensor:
        attended: Tensor = super().__call__(attn, hidden_states, *args, **kwargs)
        return attended


class _CrossAttention:
    """Cross-attention of one layer whose keys and values are given from outside."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        keys_values: KeysValues,
    ) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), *keys_values[self.layer])
        )
        attended = F.scaled_dot_product_attention(query, key.to(query), value.to(query))
        projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return projected


class Denoiser:
    """A frozen UNet with its schedule; text comes in as keys and values."""

    def __init__(self, unet: UNet2DConditionModel, abar: Tensor, prediction_type: str) -> None:
        self.unet = unet.eval()
        for parameter in unet.parameters():
            parameter.requires_grad = False
        self.abar = abar
        self.prediction_type = prediction_type
        self.layers = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
        unet.set_attn_processor(
            {
                name: _CrossAttention(name.removesuffix(".processor")) if ".attn2." in name else _SelfAttention()
                for name in unet.attn_processors
            }
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    def predict(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """The raw prediction (epsilon or v) for latents [b, 4, h, w] at integer times [b]."""
        # The UNet wants a text tensor; no layer of ours reads it.
        unread = z_t.new_zeros(z_t.shape[0], 1, self.unet.config.cross_attention_dim)
        prediction: Tensor = self.unet(
            z_t.to(self.unet.dtype),
            t,
            encoder_hidden_states=unread.to(self.unet.dtype),
            cross_attention_kwargs={"keys_values": keys_values},
            return_dict=False,
        )[0]
        return prediction

    def denoise(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """x0 in one query, float32."""
        return predict_x0(self.predict(z_t, t, keys_values), z_t, t, self.abar, self.prediction_type)

    def one_step(self, eps: Tensor, keys_values: KeysValues) -> Tensor:
        """The student's picture: noise [b, 4, h, w] ~ N(0, 1) to clean latents, float32."""
        t = torch.full((eps.shape[0],), T_MAX, device=eps.device)
        return self.denoise(first_latents(eps, self.abar), t, keys_values)

    def new_projections(self) -> "KeyValueProjections":
        """The pretrained projections as a trainable copy."""
        weights = {}
        for layer in self.layers:
            attention = self.unet.get_submodule(layer)
            weights[layer] = (attention.to_k.weight.detach().float(), attention.to_v.weight.detach().float())
        return KeyValueProjections(weights)


class KeyValueProjections(nn.Module):
    """to_k and to_v of every cross-attention layer: all that OPAD trains in a UNet (25.6 M weights in SD 2.1)."""

    def __init__(self, weights: KeysValues) -> None:
        super().__init__()
        self.layers = list(weights)
        self.to_k = nn.ParameterList(nn.Parameter(k.clone()) for k, _ in weights.values())
        self.to_v = nn.ParameterList(nn.Parameter(v.clone()) for _, v in weights.values())

    def forward(self, text_states: Tensor) -> KeysValues:
        """Text states [b, tokens, d] to keys and values of every layer.

        The first (BOS) token teaches the projections nothing: its keys and values are detached, as diffusers'
        Custom Diffusion processor does, which the authors used.
        """
        keys_values = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            key, value = text_states @ to_k.T, text_states @ to_v.T
            keys_values[layer] = (_detach_first(key), _detach_first(value))
        return keys_values

    def tensors(self) -> dict[str, Tensor]:
        """Named as in the UNet's own state: `<layer>.to_k.weight`, [inner, d]."""
        named = {}
        for layer, to_k, to_v in zip(self.layers, self.to_k, self.to_v, strict=True):
            named[f"{layer}.to_k.weight"] = to_k.detach()
            named[f"{layer}.to_v.weight"] = to_v.detach()
        return named


def _detach_first(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1)


def projections_of(tensors: dict[str, Tensor]) -> KeyValueProjections:
    """The reverse of `KeyValueProjections.tensors`."""
    layers = [name.removesuffix(".to_k.weight") for name in tensors if name.endswith(".to_k.weight")]
    return KeyValueProjections({n: (tensors[f"{n}.to_k.weight"], tensors[f"{n}.to_v.weight"]) for n in layers})


@dataclass(frozen=True)
class TextSide:
    """Tokenizer and frozen text encoder, shared by teacher and student."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    def embedding_of(self, word: str) -> Tensor:
        """Mean input embedding of a word's tokens (with the end-of-word mark), [d]: where V* starts."""
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        return self.encoder.get_input_embeddings().weight[ids].detach().float().mean(0)

    def entry_of(self, word: str) -> Tensor:
        """Input embedding of the vocabulary's entry spelled exactly so, else of the end token, [d].

        In CLIP's vocabulary such an entry is the beginning of longer words; whole words carry an end-of-word mark.
        """
        entry = self.tokenizer.get_vocab().get(word, self.tokenizer.eos_token_id)
        return self.encoder.get_input_embeddings().weight[entry].detach().float()

    def token_ids(self, prompt: str, class_noun: str) -> tuple[list[int], int | None]:
        """Padded ids of a prompt and the position of V* in them; None for a prompt without the placeholder.

        Raises OpadError for more than one placeholder, or one beyond the encoder's length.
        """
        if prompt.count(PLACEHOLDER) > 1:
            raise OpadError(f"the prompt names {PLACEHOLDER} {prompt.count(PLACEHOLDER)} times; name it once")
        before, found, after = prompt.partition(PLACEHOLDER)
        tokenizer = self.tokenizer
        length = self.encoder.config.max_position_embeddings
        if found:
            head = [tokenizer.bos_token_id, *tokenizer(before.strip(), add_special_tokens=False).input_ids]
            tail = tokenizer(f"{class_noun} {after.strip()}", add_special_tokens=False).input_ids
            position = len(head)
            ids = [*head, tokenizer.bos_token_id, *tail]  # the id under V* is never read
            if position >= length - 1:
                raise OpadError(f"{PLACEHOLDER} comes after {position} words; it must be among the first {length - 2}")
        else:
            position = None
            ids = [tokenizer.bos_token_id, *tokenizer(prompt.strip(), add_special_tokens=False).input_ids]
        ids = [*ids[: length - 1], tokenizer.eos_token_id]
        return ids + [tokenizer.pad_token_id] * (length - len(ids)), position

    def encode(self, prompts: list[str], class_nouns: list[str], rows: list[Tensor | None]) -> Tensor:
        """Text states [b, tokens, d]; `rows[i]` is V* of prompt i, [d], or None where it has no placeholder.

        The gradient reaches the rows and nothing else.
        """
        text_states: Tensor = self.encoder.final_layer_norm(self._hidden(prompts, class_nouns, rows))
        return text_states.float()

    def _hidden(self, prompts: list[str], class_nouns: list[str], rows: list[Tensor | None]) -> Tensor:
        """What the encoder's last layer makes of the prompts, before the final norm."""
        encoder = self.encoder
        embedded = []
        for prompt, class_noun, row in zip(prompts, class_nouns, rows, strict=True):
            ids, position = self.token_ids(prompt, class_noun)
            vectors = encoder.get_input_embeddings()(torch.tensor(ids, device=encoder.device))
            if position is not None:
                if row is None:
                    raise OpadError(f"the prompt names {PLACEHOLDER} but no concept was given")
                is_concept = torch.arange(len(ids), device=encoder.device)[:, None] == position
                vectors = torch.where(is_concept, row.to(vectors), vectors)
            embedded.append(vectors)
        states = encoder.embeddings(inputs_embeds=torch.stack(embedded))
        encoded = encoder.encoder(inputs_embeds=states, attention_mask=self._causal_mask(states), is_causal=True)
        hidden: Tensor = encoded.last_hidden_state
        return hidden

    @torch.no_grad()
    def summarise(self, prompts: list[str], last_layer: nn.Module | None = None) -> Tensor:
        """The text state at the end of each prompt, [b, d], float32; prompts without a placeholder.

        `last_layer` goes between the encoder and its final norm.
        """
        hidden = self._hidden(prompts, [""] * len(prompts), [None] * len(prompts)).float()
        if last_layer is not None:
            hidden = last_layer(hidden, self._causal_mask(hidden), is_causal=True)
        norm = self.encoder.final_layer_norm
        states = F.layer_norm(hidden, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        ends = [self.token_ids(prompt, "")[0].index(self.tokenizer.eos_token_id) for prompt in prompts]
        return states[torch.arange(len(prompts)), ends]

    @staticmethod
    def _causal_mask(states: Tensor) -> Tensor:
        tokens = states.shape[1]
        mask = states.new_full((tokens, tokens), torch.finfo(states.dtype).min).triu(1)
        return mask.expand(states.shape[0], 1, tokens, tokens)
