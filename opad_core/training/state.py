"""The whole state of a training, named; safetensors bytes with a JSON header, no pickle.

Randomness is not in it: it is derived from the seed and the step (`random_streams`).
"""

import json
import math
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from opad_core.adapters.key_value import KeyValueProjections
from opad_core.errors import OpadError, OtherTrainingError

FORMAT = 4
_OF_SCALER = ("scale", "_growth_tracker")
"""What changes in a `GradScaler`: the factor, and its steps without an overflow."""


@dataclass
class TrainingState:
    """Everything that changes while a concept is learned."""

    token_row: nn.Parameter
    teacher: KeyValueProjections
    student: KeyValueProjections
    heads: nn.ModuleList
    """Of D1, D2, D3."""
    optimizers: dict[str, torch.optim.AdamW]
    student_average: list[Tensor]
    """EMA of the student's projections and the token row, in the order of `averaged_parameters`."""
    scaler: GradScaler
    """Of the student's losses; disabled in float32."""
    overflows: int = 0
    """Student's steps in a row, the last ones, that the scaler skipped."""
    step: int = 0
    """Iterations done."""
    rate: float = 1.0
    """Factor on every learning rate; less than 1 once a divergence was rolled back."""
    sample_pixels: Tensor | None = None
    """Student pictures of the collaborative stage, uint8 [n, r, r, 3]."""
    sample_prompts: list[str] = field(default_factory=list)
    best: list[Tensor] | None = None
    """The average that scored best when it was looked at, as `student_average`."""
    best_score: float = -math.inf
    stale: int = 0
    """Looks since then."""

    def averaged_parameters(self) -> list[nn.Parameter]:
        return [*self.student.parameters(), self.token_row]

    def save(self, *, fingerprint: str) -> bytes:
        """`fingerprint` names what the state belongs to: base, config, references and seed."""
        header = {
            "format": FORMAT,
            "step": self.step,
            "rate": self.rate,
            "fingerprint": fingerprint,
            "sample_prompts": self.sample_prompts,
            "best_score": self.best_score if self.best else None,
            "stale": self.stale,
            "overflows": self.overflows,
        }
        tensors = self._tensors() | {f"best.{i}": kept for i, kept in enumerate(self.best or [])}
        if self.sample_pixels is not None:
            tensors["samples"] = self.sample_pixels
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            tensors["loss_scale"] = torch.tensor([scaler[name] for name in _OF_SCALER], dtype=torch.float64)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(tensors, metadata={"state": json.dumps(header)})

    def load(self, data: bytes, *, fingerprint: str) -> None:
        """In place. Raises OpadError for damaged bytes, OtherTrainingError for those of another training."""
        try:
            header_bytes = int.from_bytes(data[:8], "little")
            header = json.loads(json.loads(data[8 : 8 + header_bytes])["__metadata__"]["state"])
            saved = load(data)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise OpadError(f"the checkpoint cannot be read: {error}") from error
        if header["format"] != FORMAT or header["fingerprint"] != fingerprint:
            raise OtherTrainingError(
                "the checkpoint belongs to another training (other pictures, settings, seed or base)"
            )
        for name, optimizer in self.optimizers.items():
            _prepare_moments(optimizer, started=f"optimizer.{name}.0.step" in saved)
        self.sample_pixels = saved.pop("samples", None)
        if (loss_scale := saved.pop("loss_scale", None)) is not None:
            scale = dict(zip(_OF_SCALER, loss_scale.tolist(), strict=True))
            self.scaler.load_state_dict(self.scaler.state_dict() | scale)
        kept = [name for name in saved if name.startswith("best.")]
        best = [saved.pop(f"best.{i}").to(self.token_row.device) for i in range(len(kept))]
        self.best = best or None
        current = self._tensors()
        if current.keys() != saved.keys():
            raise OpadError("the checkpoint lacks a part of the training's state; start the training again")
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(saved[name])
        self.step, self.rate = header["step"], header["rate"]
        self.sample_prompts = header["sample_prompts"]
        self.best_score = -math.inf if header["best_score"] is None else header["best_score"]
        self.stale, self.overflows = header["stale"], header["overflows"]

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {"token_row": self.token_row}
        for network in ("teacher", "student", "heads"):
            for name, parameter in getattr(self, network).named_parameters():
                tensors[f"{network}.{name}"] = parameter
        for i, average in enumerate(self.student_average):
            tensors[f"student_average.{i}"] = average
        for name, optimizer in self.optimizers.items():
            for i, parameter in enumerate(_parameters(optimizer)):
                for key, value in optimizer.state[parameter].items():
                    tensors[f"optimizer.{name}.{i}.{key}"] = value
        return tensors


def _parameters(optimizer: torch.optim.AdamW) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _prepare_moments(optimizer: torch.optim.AdamW, *, started: bool) -> None:
    """AdamW makes its state at the first step; a fresh one needs the places that a checkpoint fills."""
    for parameter in _parameters(optimizer):
        optimizer.state[parameter] = (
            {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
            if started
            else {}
        )
