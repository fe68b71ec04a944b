"""Warn about the words of a prompt that do not reach the image: unknown ones, and those beyond the base's length."""

import re

from opad_core.bases.manifest import Manifest
from opad_core.networks.text_encoder import PLACEHOLDER, TextEncoder


def prompt_warnings(manifest: Manifest, text: TextEncoder, *, prompt: str, class_noun: str) -> list[str]:
    """Return a sentence for each unknown word of the prompt, and one for the end that the base does not read.

    `class_noun` is that of the concept which the prompt names; a prompt that names none does not use it.
    """
    warnings = []
    if manifest.words is not None:
        known = {*manifest.words, *(manifest.nouns or [])}
        words = dict.fromkeys(re.findall(r"[^\W_]+", prompt.replace(PLACEHOLDER, " ").lower()))
        warnings += [f"{manifest.name} does not know {word!r} and may ignore it" for word in words if word not in known]
    unread = text.unread(prompt, class_noun)
    if unread:
        warnings.append(f"the prompt is longer than {manifest.name} reads; it ignores the end: {unread!r}")
    return warnings
