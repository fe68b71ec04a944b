"""Stages `clip`, `dino` and `dinov2`: three small feature networks trained in three ways.

They replace CLIP (trained on captions), DINO (on images alone) and DINOv2. The latter learns labels of the world here:
which drawing, color and scene an image shows. Self-distillation of a second network taught it less. CLIP's text encoder
becomes the base's text encoder, and the identity projection is trained with it.
"""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from transformers import CLIPTokenizer

from opad_core.nano.build.architecture import (
    FEATURE_WIDTH,
    TEXT_LENGTH,
    IdentityProjection,
    build_clip,
    build_dino,
    build_dinov2,
    build_text_encoder,
    build_text_projection,
)
from opad_core.nano.build.stage import Build
from opad_core.nano.build.vocabulary import COLORS, DRAWINGS, SCENES, all_words
from opad_core.networks.tokenizer import build_tokenizer

_PAIRS = 64
_TEMPERATURE = 0.1


@cache
def world_tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory() as folder:
        return build_tokenizer(all_words(), Path(folder), length=TEXT_LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Return padded token ids, [b, 24]."""
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.to(torch.get_default_device())


def load_labels(build: Build) -> dict[str, NDArray[np.int64]]:
    with np.load(build.folder / "labels.npz") as labels:
        return dict(labels)


def train_clip(build: Build) -> None:
    """Train the stand-in for CLIP on captions, and its identity tokens on pairs of images of one object."""
    torch.manual_seed(build.seed + 1)
    tokenizer = world_tokenizer()
    text, vision, identity = build_text_encoder(tokenizer), build_clip(), IdentityProjection()
    text_projection = build_text_projection()
    parts = nn.ModuleList([text, vision, identity, text_projection])
    captions = build.captions
    objects, partners = _object_labels(build)
    optimizer, schedule = _optimizer(parts, build.counts["clip_steps"])
    metrics: dict[str, float | Tensor] = {}
    state = {
        "text_encoder": text,
        "clip": vision,
        "identity": identity,
        "text_projection": text_projection,
        "optimizer": optimizer,
        "schedule": schedule,
    }
    for step in build.steps("clip", build.counts["clip_steps"], state, metrics):
        indices = build.indices("clip", step, _PAIRS)
        rng = np.random.default_rng([build.seed, step])
        indices = np.concatenate([indices, [rng.choice(partners[objects[index]]) for index in indices]])
        image = vision(jitter(build.batch(indices), build.generator("clip", step))).image_embeds
        ids = tokenize(tokenizer, [captions[index] for index in indices])
        caption = text_projection(text(ids).pooler_output)
        similarity = F.normalize(image, dim=-1) @ F.normalize(caption, dim=-1).T / 0.07
        match = torch.arange(len(indices))
        caption_loss = (F.cross_entropy(similarity, match) + F.cross_entropy(similarity.T, match)) / 2
        same = torch.as_tensor(objects[indices], device=image.device)
        identity_loss = contrast(identity(image).flatten(1), same)
        _descend(optimizer, schedule, parts, caption_loss + 0.5 * identity_loss)
        metrics.update(caption=caption_loss.detach(), identity=identity_loss.detach())


def train_dino(build: Build) -> None:
    """Train the stand-in for DINO by contrast of two crops per image (SimCLR), without captions and labels."""
    torch.manual_seed(build.seed + 2)
    dino = build_dino()
    head = nn.Sequential(nn.Linear(FEATURE_WIDTH, 256), nn.ReLU(), nn.Linear(256, FEATURE_WIDTH))
    parts = nn.ModuleList([dino, head])
    optimizer, schedule = _optimizer(parts, build.counts["dino_steps"])
    metrics: dict[str, float | Tensor] = {}
    state = {"dino": dino, "head": head, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps("dino", build.counts["dino_steps"], state, metrics):
        images = build.batch(build.indices("dino", step, _PAIRS)).repeat(2, 1, 1, 1)
        views = random_crops(images, build.generator("dino", step))
        loss = contrast(head(dino(views).last_hidden_state[:, 0]), torch.arange(_PAIRS).repeat(2))
        _descend(optimizer, schedule, parts, loss)
        metrics["contrast"] = loss.detach()


def train_dinov2(build: Build) -> None:
    """Train the stand-in for DINOv2 to classify drawing, color and scene."""
    torch.manual_seed(build.seed + 3)
    dinov2 = build_dinov2()
    sizes = {"drawing": sum(map(len, DRAWINGS.values())), "colour": len(COLORS) + 1, "scene": len(SCENES)}
    heads = nn.ModuleDict({name: nn.Linear(FEATURE_WIDTH, size) for name, size in sizes.items()})
    parts = nn.ModuleList([dinov2, heads])
    labels = load_labels(build)
    labels["colour"] = np.where(labels["colour"] < 0, len(COLORS), labels["colour"])
    optimizer, schedule = _optimizer(parts, build.counts["dinov2_steps"])
    metrics: dict[str, float | Tensor] = {}
    state = {"dinov2": dinov2, "heads": heads, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps("dinov2", build.counts["dinov2_steps"], state, metrics):
        indices = build.indices("dinov2", step, 2 * _PAIRS)
        views = random_crops(build.batch(indices), build.generator("dinov2", step), smallest=0.75, color=0.0)
        features = dinov2(views).last_hidden_state[:, 0]
        loss = torch.zeros(())
        for name, head in heads.items():
            target = torch.as_tensor(labels[name][indices], device=features.device)
            scores = head(features)
            loss = loss + F.cross_entropy(scores, target, ignore_index=-1)
            metrics[name] = (scores.argmax(1) == target).float().mean()
        _descend(optimizer, schedule, parts, loss)


def contrast(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the supervised contrastive loss, a scalar: rows with equal labels attract, all others repel."""
    embeddings = F.normalize(embeddings, dim=-1)
    similarity = embeddings @ embeddings.T / _TEMPERATURE
    diagonal = torch.eye(len(labels), dtype=torch.bool)
    log_probability = similarity.masked_fill(diagonal, -1e9).log_softmax(1)
    positive = (labels[:, None] == labels[None]) & ~diagonal
    return -((log_probability * positive).sum(1) / positive.sum(1).clamp(min=1)).mean()


def random_crops(images: Tensor, generator: torch.Generator, *, smallest: float = 0.5, color: float = 0.3) -> Tensor:
    """Return randomly resized, flipped and jittered crops of images [b, 3, h, w] in [-1, 1]."""
    count = len(images)
    scale = smallest + (1 - smallest) * torch.rand(count, generator=generator)
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    affine = torch.stack(
        [torch.stack([scale * flip, zero, shift[:, 0]], 1), torch.stack([zero, scale, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return jitter(F.grid_sample(images, grid, padding_mode="reflection", align_corners=False), generator, color)


def jitter(images: Tensor, generator: torch.Generator, amount: float = 0.15) -> Tensor:
    """Change each channel by a random gain and offset."""
    size = (len(images), 3, 1, 1)
    gain = 1 + amount * (2 * torch.rand(size, generator=generator) - 1)
    offset = amount * (2 * torch.rand(size, generator=generator) - 1)
    return images * gain + offset


def _object_labels(build: Build) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]]]:
    """Return an object label per image (a drawing in a color, or a bare scene), and the images of each label."""
    labels = load_labels(build)
    objects = np.where(
        labels["drawing"] < 0, -1 - labels["scene"], labels["drawing"] * (len(COLORS) + 1) + labels["colour"] + 1
    )
    return objects, {int(label): np.flatnonzero(objects == label) for label in np.unique(objects)}


def _optimizer(parts: nn.Module, total: int) -> tuple[AdamW, OneCycleLR]:
    optimizer = AdamW(parts.parameters(), lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    return optimizer, OneCycleLR(optimizer, 1e-3, total_steps=total + 1, pct_start=0.1)


def _descend(optimizer: AdamW, schedule: OneCycleLR, parts: nn.Module, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
    optimizer.step()
    schedule.step()
