"""Encode prompts, in which a learned token V* may stand among the words."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from opad_core.errors import OpadError

PLACEHOLDER = "<concept>"
"""Stands for the concept in a prompt. It expands to V* followed by the class noun."""


@dataclass(frozen=True)
class Tokens:
    """Tokenized prompts."""

    ids: Tensor
    """[b, tokens], padded."""
    is_concept: Tensor
    """[b, tokens], True at the position of V*."""


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and frozen text encoder, shared by teacher and student."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    @property
    def row_shape(self) -> torch.Size:
        """Shape of a token row, [d]."""
        return torch.Size((self.encoder.config.hidden_size,))

    def embedding_of(self, word: str) -> Tensor:
        """Return the mean input embedding [d] of a word's tokens, tokenized as a whole word."""
        ids = self.tokenizer(word, add_special_tokens=False).input_ids
        return self.encoder.get_input_embeddings().weight[ids].detach().float().mean(0)

    def entry_of(self, word: str) -> Tensor:
        """Return the input embedding [d] of the vocabulary's entry with exactly this spelling, else of the end token.

        In CLIP's vocabulary such an entry is the beginning of longer words; whole words have an end-of-word mark.
        """
        entry = self.tokenizer.get_vocab().get(word, self.tokenizer.eos_token_id)
        return self.encoder.get_input_embeddings().weight[entry].detach().float()

    def token_ids(self, prompt: str, class_noun: str) -> tuple[list[int], int | None]:
        """Return a prompt's padded ids and the position of V* in them, or None without a placeholder.

        Raises OpadError for more than one placeholder, and for one beyond the encoder's length.
        """
        if prompt.count(PLACEHOLDER) > 1:
            raise OpadError(f"the prompt names {PLACEHOLDER} {prompt.count(PLACEHOLDER)} times; name it once")
        tokenizer = self.tokenizer
        length = self.encoder.config.max_position_embeddings
        head, text = self._begun(prompt, class_noun)
        position = len(head) - 1 if PLACEHOLDER in prompt else None
        if position is not None and position >= length - 1:
            raise OpadError(f"{PLACEHOLDER} comes after {position} words; it must be among the first {length - 2}")
        ids = [*head, *tokenizer(text, add_special_tokens=False, verbose=False).input_ids]
        ids = [*ids[: length - 1], tokenizer.eos_token_id]
        return ids + [tokenizer.pad_token_id] * (length - len(ids)), position

    def unread(self, prompt: str, class_noun: str) -> str:
        """Return the end of a prompt that is cut off because the encoder's length is reached; "" for a short prompt.

        It begins with the first word of which a part is missing.
        """
        head, text = self._begun(prompt, class_noun)
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        room = max(0, self.encoder.config.max_position_embeddings - 1 - len(head))
        if len(tokens.input_ids) <= room:
            return ""
        first = tokens.offset_mapping[room][0]
        return text[text.rfind(" ", 0, first) + 1 :]

    def _begun(self, prompt: str, class_noun: str) -> tuple[list[int], str]:
        """Return the ids from the start to V*, which is a second start token, and the text that follows them."""
        before, found, after = prompt.partition(PLACEHOLDER)
        start = self.tokenizer.bos_token_id
        if not found:
            return [start], prompt.strip()
        head = self.tokenizer(before.strip(), add_special_tokens=False).input_ids
        return [start, *head, start], f"{class_noun} {after.strip()}"  # the embedding replaces the id at V*

    def tokens(self, prompts: list[str], class_nouns: list[str]) -> Tokens:
        """Tokenize prompts on the CPU. Raises OpadError as `token_ids` does."""
        ids, positions = zip(*map(self.token_ids, prompts, class_nouns), strict=True)
        places = torch.tensor([-1 if position is None else position for position in positions])
        return Tokens(torch.tensor(ids), torch.arange(len(ids[0])) == places[:, None])

    def encode(self, prompts: list[str], class_nouns: list[str], rows: list[Tensor | None]) -> Tensor:
        """Return text states [b, tokens, d]. `rows[i]` is V* of prompt i, [d], or None if it has no placeholder.

        Gradients reach only the rows.
        """
        tokens, weight = self.tokens(prompts, class_nouns), self.encoder.get_input_embeddings().weight
        if any(row is None and has for row, has in zip(rows, tokens.is_concept.any(1).tolist(), strict=True)):
            raise OpadError(f"the prompt names {PLACEHOLDER} but no concept was given")
        none = weight.new_zeros(weight.shape[1])
        return self.encode_tokens(tokens, torch.stack([none if row is None else row.to(none) for row in rows]))

    def encode_tokens(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """Return text states [b, tokens, d]. `rows` [b, d] or [1, d] is V* of each prompt.

        If a prompt has several learned tokens, `is_concept` marks all of them, and `rows` is [b, tokens, d].
        Gradients reach the rows, and those weights of the encoder that an adapter learns.
        """
        text_states: Tensor = self.encoder.final_layer_norm(self._hidden(tokens, rows))
        return text_states.float()

    def _hidden(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """Return the output of the encoder's last layer, before the final norm."""
        encoder = self.encoder
        vectors = encoder.get_input_embeddings()(tokens.ids.to(encoder.device))
        is_concept = tokens.is_concept.to(encoder.device)[..., None]
        rows = rows if rows.ndim == 3 else rows[:, None]
        vectors = torch.where(is_concept, rows.to(vectors), vectors)
        states = encoder.embeddings(inputs_embeds=vectors)
        # A mask would say the same, and rules CUDA's flash kernel out.
        encoded = encoder.encoder(inputs_embeds=states, attention_mask=None, is_causal=True)
        hidden: Tensor = encoded.last_hidden_state
        return hidden

    @torch.no_grad()
    def pooled_embedding(self, prompts: list[str], last_layer: nn.Module | None = None) -> Tensor:
        """Return the text state at the end token of each prompt, [b, d], float32. Prompts have no placeholder.

        `last_layer` is applied between the encoder and its final norm.
        """
        tokens, table = self.tokens(prompts, [""] * len(prompts)), self.encoder.get_input_embeddings().weight
        hidden = self._hidden(tokens, table[:1]).float()  # without a placeholder no row is used
        if last_layer is not None:
            hidden = last_layer(hidden, None, is_causal=True)
        norm = self.encoder.final_layer_norm
        states = F.layer_norm(hidden, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
        ends = (tokens.ids == self.tokenizer.eos_token_id).int().argmax(1)
        return states[torch.arange(len(prompts)), ends.to(states.device)]
