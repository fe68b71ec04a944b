"""Refuse prompts by their tokens: a word of the installation's list is one however the tokenizer got there."""

from api.domain.denied_words import DeniedWords, fold
from opad_core import TextEncoder

_WORD_END = "</w>"
"""How CLIP's vocabulary marks the last token of a word."""


class PromptDenied(Exception):
    """The prompt has a word of the list."""


class DeniedTokens:
    """The token sequences of a list of words. Only one thread may use its tokenizer."""

    def __init__(self, words: DeniedWords, text: TextEncoder) -> None:
        self._tokenizer = text.tokenizer.backend_tokenizer
        self._tokenizer.no_truncation()  # a tokenizer's file may ask for it
        self._tokenizer.no_padding()
        spellings = {spelling for entry in words.entries for spelling in (entry, fold(entry))}
        self._sequences = {tuple(self._tokens(spelling)) for spelling in spellings} - {()}

    def refuse(self, prompt: str) -> None:
        """Raise PromptDenied if the tokens of the prompt contain those of an entry, from the start of a word on."""
        tokens = self._tokens(prompt) if self._sequences else []
        for start in range(len(tokens)):
            if start and not tokens[start - 1].endswith(_WORD_END):
                continue
            if any(tuple(tokens[start : start + len(sequence)]) == sequence for sequence in self._sequences):
                raise PromptDenied

    def _tokens(self, text: str) -> list[str]:
        # the tokenizer's own call takes three times as long, for options that are not used here
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens
