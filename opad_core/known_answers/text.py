"""Checks of the text side: the tokens of the prompts, and whether one text encoder serves both UNets."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from opad_core.bases.loading import Base
from opad_core.bases.manifest import Manifest
from opad_core.known_answers.answer import Answer, answer, skipped
from opad_core.known_answers.expected import Expected

STORED = Path(__file__).with_name("token_ids.json")
"""For each vocabulary the ids of prompts, without padding. `python -m opad_core.known_answers.token_ids` wrote it."""


def prompt_tokens(base: Base, expected: Expected) -> Answer:
    """Compare the tokens of every template and scene prompt with those that are stored for the base's vocabulary."""
    stored = _stored()[expected.vocabulary]
    known, tokenizer = base.text.tokenizer.get_vocab(), base.text.tokenizer
    different = [prompt for prompt, ids in stored.items() if tokenizer(prompt).input_ids != ids]
    return answer(
        "tokens of the prompts",
        not different,
        f"{len(stored) - len(different)} of {len(stored)} prompts have the expected tokens",
        wrong=(
            f"the first that differs is {different[0]!r}. The tokenizer ({len(known)} tokens) is not the one of the "
            "text encoder, so prompts mean something else; fetch the base again"
            if different
            else ""
        ),
    )


def padding(base: Base, expected: Expected) -> Answer:
    """Compare the token that fills short prompts with the one that the text encoder learned."""
    pad = base.text.tokenizer.pad_token_id
    return answer(
        "padding",
        pad == expected.pad_id,
        f"prompts are padded with token {pad}",
        wrong=f"the text encoder learned padding with token {expected.pad_id}. Images will follow prompts less well; "
        "check `pad_token` in tokenizer_config.json, or fetch the base again",
    )


def student_text_encoder(manifest: Manifest) -> Answer:
    """Report how the student's own text encoder, which is not kept, differed from the teacher's when it was fetched."""
    check = "one text encoder for teacher and student"
    found = manifest.student_text_encoder
    if found is None:
        return skipped(check, "not applicable: the base was built with one text encoder, or fetched without a look")
    return answer(
        check,
        not found["different"],
        f"{found['tensors'] - len(found['different'])} of {found['tensors']} tensors of the student's own text encoder "
        "equal the teacher's",
        wrong=f"{', '.join(found['different'][:3])} and so on differ by up to {found['largest']:.2g}. The student was "
        "distilled with another text encoder than it gets here, so its images may follow prompts less well; compare "
        "them with diffusers' own pipeline, and tell us",
    )


@cache
def _stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(STORED.read_text())
    return content
