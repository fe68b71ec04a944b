"""Tiny random networks of the classes of the published metrics, as a mirror and as the folder that `fetch` makes."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from opad_core.bases.fetch.metrics import OPENAI_B32, OPENAI_L336, RECIPE, describe_metrics
from opad_core.bases.fetch.recipes import DINO, DINOV2
from opad_core.bases.manifest import hash_of
from opad_core.bases.metric_networks import CLIP_B32, CLIP_L336, DINO_S16, DINOV2_L14, METRICS
from opad_core.networks.tokenizer import build_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = ["a", "dog", "mug", "in", "the", "snow", "on", "beach", "red"]
SIDES = {CLIP_L336: 28, CLIP_B32: 32}
"""Sides of the input of the two CLIPs, instead of 336 and 224."""


def write_metrics(bases: Path) -> Path:
    """Write `bases/metrics` without a fetch, and return it."""
    folder = bases / METRICS
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for name in SIDES:
            _clip(folder / name, side=SIDES[name]).save_pretrained(folder / name)
        _write_dinos(folder / DINOV2_L14, folder / DINO_S16)
    files = {file.relative_to(folder).as_posix(): hash_of(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    manifest = {**describe_metrics(RECIPE, folder), "sources": {}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_metrics_mirror(folder: Path) -> Path:
    """Write `folder/<owner>/<name>` for each repository. CLIP's weights are pickles, and hold numbers of positions."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        for repository, side in ((OPENAI_L336, 28), (OPENAI_B32, 32)):
            own = folder / repository.name
            clip = _clip(own, side=side)
            clip.config.save_pretrained(own)
            positions = {f"{part}_model.embeddings.position_ids": torch.arange(5)[None] for part in ("text", "vision")}
            torch.save({**clip.state_dict(), **positions}, own / "pytorch_model.bin")
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                (own / name).write_text("{}")
        _write_dinos(folder / DINOV2.name, folder / DINO.name)
    return folder


def _clip(folder: Path, *, side: int) -> CLIPModel:
    """Return a CLIP of this side whose tokenizer is in the folder."""
    tokenizer = build_tokenizer(WORDS, folder, length=16)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": len(tokenizer) - 1}
    vision = {**SMALL, "image_size": side, "patch_size": 14 if side == 28 else 16}
    return _sharpened(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)))


def _write_dinos(dinov2: Path, dino: Path) -> None:
    _sharpened(Dinov2Model(Dinov2Config(**SMALL, image_size=56, patch_size=14))).save_pretrained(dinov2)
    small = ViTConfig(**SMALL, image_size=32, patch_size=16)
    _sharpened(ViTModel(small, add_pooling_layer=False)).save_pretrained(dino)


def _sharpened(network: nn.Module) -> Any:
    """Let features depend on the image more than on the class token, so that some cosines are negative."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "patch_embedding" in name:
                weight *= 10
            if name.endswith(("v_proj.weight", "out_proj.weight", "o_proj.weight")):
                weight *= 20
            if "class_embedding" in name or "cls_token" in name:
                weight *= 0.01
    return network
