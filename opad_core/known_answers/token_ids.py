"""`python -m opad_core.known_answers.token_ids VOCABULARY`: write the tokens that prompts must have.

VOCABULARY is OpenAI's `bpe_simple_vocab_16e6.txt.gz`, as the wheel of open_clip_torch holds it. The tokens of nano come
from the shipped base.
"""

import gzip
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

from opad_core.bases.captions import TEMPLATES
from opad_core.bases.fetch.description import SCENE_PROMPTS
from opad_core.bases.loading import load_base
from opad_core.known_answers.text import STORED
from opad_core.networks.tokenizer import MARKS, byte_tokens

MERGES = 49152 - 256 - 2
"""Merges that CLIP uses, after the first line. With 2 x 256 bytes and two marks they make 49,408 tokens."""


def clip_tokenizer(vocabulary: Path, folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer, built from the file of its merges. Writes vocab.json and merges.txt to `folder`."""
    merges = gzip.decompress(vocabulary.read_bytes()).decode().splitlines()[1 : MERGES + 1]
    tokens = [*byte_tokens(), *(merge.replace(" ", "") for merge in merges), *MARKS]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in merges))
    return CLIPTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def ids_of(tokenizer: CLIPTokenizer, prompts: Iterable[str]) -> dict[str, list[int]]:
    return {prompt: tokenizer(prompt).input_ids for prompt in prompts}


def nano_prompts() -> list[str]:
    manifest = load_base("nano", device="cpu").manifest
    prompts = [*manifest.templates, *manifest.scene_prompts, *manifest.caption_scenes, *manifest.training_scenes]
    return [prompt.format("dog") for prompt in dict.fromkeys(prompts)]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = clip_tokenizer(Path(sys.argv[1]), Path(folder))
    stored = {
        "clip": ids_of(clip, [prompt.format("dog") for prompt in (*TEMPLATES, *SCENE_PROMPTS)]),
        "nano": ids_of(load_base("nano", device="cpu").text.tokenizer, nano_prompts()),
    }
    lines = ",\n".join(
        f' "{name}": {{\n' + ",\n".join(f"  {json.dumps(prompt)}: {ids}" for prompt, ids in prompts.items()) + "\n }"
        for name, prompts in stored.items()
    )
    STORED.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
