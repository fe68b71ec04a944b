"""Export a bundle to formats that other tools load.

A bundle holds whole key and value projections. Other tools load low-rank differences (LoRA), so an export is the
truncated singular value decomposition of (learned - pretrained), with V* as a textual inversion:

    unet_lora.safetensors     diffusers (PEFT) names; `pipeline.load_lora_weights`
    kohya_lora.safetensors    the names and `ss_*` metadata of sd-scripts; ComfyUI, AUTOMATIC1111, InvokeAI
    embedding.safetensors     V*; `pipeline.load_textual_inversion(..., token="<concept>")`, ComfyUI's `embedding:`
    export.json               rank, relative error of the truncation, trigger words, concept and base

In every tool the trigger is the embedding followed by the class noun, which is what `<concept>` stands for.
"""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.generation.bundle import Bundle
from opad_core.networks.text_encoder import PLACEHOLDER

DEFAULT_RANK = 32
EXPORT_FILES = ("unet_lora.safetensors", "kohya_lora.safetensors", "embedding.safetensors", "export.json")


@dataclass(frozen=True)
class LowRank:
    """`up` [inner, r] times `down` [r, d] approximates the difference of one projection."""

    up: Tensor
    down: Tensor


def export_bundle(bundle: Bundle, base: Base, *, rank: int = DEFAULT_RANK) -> dict[str, bytes]:
    """Return the content of each file by name. Raises OpadError for a bundle of another base and for a rank below 1.

    The rank of a projection is at most its smaller side. At that rank only rounding to half precision is lost.
    """
    if rank < 1:
        raise OpadError(f"the rank must be at least 1, got {rank}")
    if bundle.base_sha256 != base.manifest.sha256:
        raise OpadError(
            f"the concept was learned on another base ({bundle.base} {bundle.base_sha256[:12]}) than the one loaded "
            f"({base.manifest.name} {base.manifest.sha256[:12]}); load that base to export it"
        )
    if not isinstance(bundle.adapter, KeyValueAdapter):
        raise OpadError(f"only key/value concepts are exported, and this one's adapter is {bundle.adapter.kind!r}")
    pretrained = pretrained_projections(base.student).tensors()
    differences = {
        name.removesuffix(".weight"): learned - pretrained[name].to(learned)
        for name, learned in bundle.adapter.projections.tensors().items()
    }
    low_rank = {name: truncated(difference, rank) for name, difference in differences.items()}
    lost = sum((differences[name] - x.up @ x.down).square().sum() for name, x in low_rank.items())
    whole = sum(difference.square().sum() for difference in differences.values())
    error = float((lost / whole).sqrt()) if whole else 0.0
    about = {
        "rank": rank,
        "relative_error": round(error, 5),
        "trigger": f"{PLACEHOLDER} {bundle.class_noun}",
        "concept": bundle.id,
        "base": bundle.base,
        "base_sha256": bundle.base_sha256,
        "licenses": base.manifest.licenses,
        "note": "one step: 1 inference step at t=999 (trailing spacing), guidance off",
    }
    return {
        "unet_lora.safetensors": _diffusers(low_rank),
        "kohya_lora.safetensors": _kohya(low_rank, bundle, rank),
        "embedding.safetensors": save({"emb_params": bundle.adapter.token_row.detach()[None].contiguous()}),
        "export.json": json.dumps(about, indent=1).encode(),
    }


def truncated(difference: Tensor, rank: int) -> LowRank:
    """Return the best approximation of a matrix [inner, d] of this rank (Eckart and Young 1936).

    Both factors are scaled by the square roots of the singular values.
    """
    u, sizes, v = torch.linalg.svd(difference.float(), full_matrices=False)
    share = sizes[:rank].sqrt()
    return LowRank(up=(u[:, :rank] * share).contiguous(), down=(share[:, None] * v[:rank]).contiguous())


def _diffusers(low_rank: dict[str, LowRank]) -> bytes:
    tensors = {}
    for name, x in low_rank.items():
        tensors[f"unet.{name}.lora_A.weight"] = x.down
        tensors[f"unet.{name}.lora_B.weight"] = x.up
    return save(tensors, metadata={"format": "pt"})


def _kohya(low_rank: dict[str, LowRank], bundle: Bundle, rank: int) -> bytes:
    tensors = {}
    for name, x in low_rank.items():
        module = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = x.down
        tensors[f"{module}.lora_up.weight"] = x.up
        tensors[f"{module}.alpha"] = torch.tensor(float(len(x.down)))  # the scale alpha / rank is 1
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_base_model_version": "sd_v2",
        "ss_v2": "True",
        "ss_sd_model_name": bundle.base,
        "ss_seed": str(bundle.manifest.get("seed")),
        "ss_tag_frequency": json.dumps({bundle.class_noun: {f"{PLACEHOLDER} {bundle.class_noun}": 1}}),
        "opad_concept": bundle.id,
        "opad_base_sha256": bundle.base_sha256,
    }
    return save(tensors, metadata=metadata)
