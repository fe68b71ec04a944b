"""AdamW with what a step of it needs here: a scaled learning rate, clipping, and a loss scale in half precision."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

FIRST_SCALE = 1024.0
"""Factor on the losses where the networks they go through are in half precision: a pixel's share of a mean over
512 x 512 of them is 1.3e-6, and float16 has nothing between 6e-8 and 0. It halves with each overflow."""
SCALE_GROWS_AFTER = 200
"""Steps without an overflow after which the factor doubles."""
MAX_OVERFLOWS = 20
"""Overflows in a row that are a divergence: by then the factor is 2^-10, and no gradient overflows for its sake."""
_OF_SCALER = ("scale", "_growth_tracker")
"""What changes in a `GradScaler`: the factor, and its steps without an overflow."""


class Optimizer:
    """AdamW of parameters that learn from one loss; betas .9 and .999."""

    def __init__(
        self,
        groups: Iterable[tuple[Iterable[nn.Parameter], float, float]],
        *,
        clip_norm: float | None = None,
        scales_loss_on: torch.device | None = None,
    ) -> None:
        """`groups` are (parameters, learning rate, weight decay). `clip_norm` bounds the norm of the gradient of all
        of them. `scales_loss_on` names the device where half precision asks for a loss scale; None: never."""
        trained: list[dict[str, Any]] = [
            {"params": list(p), "lr": lr, "initial_lr": lr, "weight_decay": decay} for p, lr, decay in groups
        ]
        # Fused takes a third of the time on a CPU. Tensors without data, whose operations `flops` counts, have none.
        fused = not any(parameter.is_meta for group in trained for parameter in group["params"])
        self._adamw = torch.optim.AdamW(trained, betas=(0.9, 0.999), eps=1e-8, fused=fused)
        self._clip_norm = clip_norm
        self._scaler = GradScaler(
            "cpu" if scales_loss_on is None else scales_loss_on.type,
            init_scale=FIRST_SCALE,
            growth_interval=SCALE_GROWS_AFTER,
            enabled=scales_loss_on is not None,
        )
        self.overflows = 0
        """Steps in a row, the last ones, that were skipped because the gradient overflowed."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._adamw.param_groups for parameter in group["params"]]

    @property
    def loss_scale(self) -> float:
        return self._scaler.get_scale()

    def step(self, loss: Tensor, *, lr_scale: float) -> None:
        """Descend on a scalar loss; with a loss scale a gradient that overflows skips the step."""
        self._adamw.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._adamw)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)
        for group in self._adamw.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale
        self._scaler.step(self._adamw)
        if self._scaler.is_enabled():
            scale = self._scaler.get_scale()
            self._scaler.update()
            self.overflows = self.overflows + 1 if self._scaler.get_scale() < scale else 0

    def trouble(self) -> str | None:
        """Say what is wrong when half precision overflows again and again; None when nothing is."""
        return f"{self.overflows} steps in a row overflowed half precision" if self.overflows >= MAX_OVERFLOWS else None

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters, moments and loss scale by name."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"{i}"] = parameter
            for key, value in self._adamw.state[parameter].items():
                tensors[f"{i}.{key}"] = value
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            values = [*(scaler[name] for name in _OF_SCALER), self.overflows]
            tensors["loss_scale"] = torch.tensor(values, dtype=torch.float64)
        return tensors

    def load(self, saved: dict[str, Tensor]) -> None:
        """Reverse `tensors`. Raises KeyError for one that is missing."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(saved[f"{i}"])
                # AdamW makes its state at the first step.
                names = [name for name in ("step", "exp_avg", "exp_avg_sq") if f"{i}.{name}" in saved]
                self._adamw.state[parameter] = {
                    name: saved[f"{i}.{name}"].to(parameter.device, copy=True) for name in names
                }
        if self._scaler.is_enabled():
            *scaler, overflows = saved["loss_scale"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | dict(zip(_OF_SCALER, scaler, strict=True)))
            self.overflows = int(overflows)
