"""Build a tokenizer from a list of words, for the nano base and the full-size base without weights."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

MARKS = ("<|startoftext|>", "<|endoftext|>")
"""The last two tokens of CLIP's vocabulary."""


def byte_tokens() -> list[str]:
    """Return the first 512 tokens of CLIP's vocabulary: the bytes as printable letters, then at the end of a word."""
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + index) for index in range(256 - len(letters))]
    return [*letters, *(letter + "</w>" for letter in letters)]


def build_tokenizer(words: Sequence[str], folder: Path, *, length: int) -> CLIPTokenizer:
    """Return a CLIP byte-pair tokenizer in which each of `words` is one token; other words have several tokens.

    Each word appends the merges that join its current pieces. Later merges rank lower, so they do not affect earlier
    words. Writes vocab.json and merges.txt to `folder`. A prompt has at most `length` tokens.
    """
    vocabulary = byte_tokens()
    ranks: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(words):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while candidates := [(ranks[pair], pair) for pair in pairwise(pieces) if pair in ranks]:
            pieces = _merge(pieces, min(candidates)[1])
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            ranks[pair] = len(ranks)
            pieces = _merge(pieces, pair)
            vocabulary.append("".join(pair))
    vocabulary = [*dict.fromkeys(vocabulary), *MARKS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in ranks))
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=length)


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
