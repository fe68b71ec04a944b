"""AdamW with a scaled learning rate, gradient clipping, and a loss scale for half precision."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

FIRST_SCALE = 1024.0
"""Initial loss scale for networks in half precision. The gradient of a mean over 512 x 512 pixels is 1.3e-6 per pixel,
and the smallest number in float16 is 6e-8. Each overflow halves the scale."""
SCALE_GROWS_AFTER = 200
"""Steps without an overflow after which the loss scale doubles."""
MAX_OVERFLOWS = 20
"""Overflows in a row that count as a divergence. By then the scale is 2^-10, so it cannot be the cause."""
_SCALER_STATE = ("scale", "_growth_tracker")
"""The state of a `GradScaler`: the scale, and the steps since it last changed."""


class Optimizer:
    """AdamW of parameters that learn from one loss; betas .9 and .999.

    A step reads nothing back from the device, so it can be captured as part of a CUDA graph: learning rates, the loss
    scale and the count of overflows are tensors that keep their place.
    """

    def __init__(
        self,
        groups: Iterable[tuple[Iterable[nn.Parameter], float, float]],
        *,
        clip_norm: float | None = None,
        scales_loss_on: torch.device | None = None,
    ) -> None:
        """Create an optimizer of `groups`, each (parameters, learning rate, weight decay).

        `clip_norm` bounds the norm of the gradient of all groups together. `scales_loss_on` is the device of networks
        in half precision; None: no loss scale.
        """
        trained: list[dict[str, Any]] = [
            {"params": list(p), "initial_lr": lr, "weight_decay": decay} for p, lr, decay in groups
        ]
        device = trained[0]["params"][0].device
        for group in trained:
            # Tensors without data (`flops`) cannot be read.
            group["lr"] = torch.tensor(group["initial_lr"], device="cpu" if device.type == "meta" else device)
        self._adamw = torch.optim.AdamW(
            trained,
            lr=trained[0]["lr"],
            betas=(0.9, 0.999),
            eps=1e-8,
            fused=device.type != "meta",  # takes a third of the time on a CPU, and skips steps on the device
            capturable=device.type == "cuda",
        )
        self._clip_norm = clip_norm
        self._scaler = GradScaler(
            "cpu" if scales_loss_on is None else scales_loss_on.type,
            init_scale=FIRST_SCALE,
            growth_interval=SCALE_GROWS_AFTER,
            enabled=scales_loss_on is not None,
        )
        self._one = torch.ones((), device=scales_loss_on)
        self._overflows = torch.zeros((), device=scales_loss_on)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self._adamw.param_groups for parameter in group["params"]]

    @property
    def loss_scale(self) -> float:
        return self._scaler.get_scale()

    @property
    def overflows(self) -> int:
        """Number of most recent steps that were skipped because the gradient overflowed. Reading it waits."""
        return int(self._overflows)

    def scale_lr(self, factor: float) -> None:
        """Set every learning rate to its initial value times `factor`."""
        for group in self._adamw.param_groups:
            group["lr"].fill_(group["initial_lr"] * factor)

    def step(self, loss: Tensor, *, skip: Tensor | None = None) -> None:
        """Minimize a scalar loss. With a loss scale, the step is skipped if the gradient overflows.

        `skip`, a scalar, skips the step of an optimizer without a loss scale if it is 1, as found on the device.
        """
        self._adamw.zero_grad(set_to_none=True)
        scale = self._scaler.scale(self._one)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._adamw)
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._clip_norm)
        if skip is not None and self._adamw.defaults["fused"]:
            # GradScaler tells a fused optimizer by this attribute, which AdamW does not declare.
            self._adamw.found_inf = skip  # type: ignore[attr-defined]
        self._scaler.step(self._adamw)
        self._adamw.found_inf = None  # type: ignore[attr-defined]
        self._scaler.update()
        if self._scaler.is_enabled():
            overflowed = self._scaler.scale(self._one) < scale
            self._overflows.copy_(torch.where(overflowed, self._overflows + 1, 0))

    def trouble(self) -> str | None:
        """Describe repeated overflows of half precision; None if there are none."""
        return f"{self.overflows} steps in a row overflowed half precision" if self.overflows >= MAX_OVERFLOWS else None

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters, AdamW's state and the loss scale by name."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"{i}"] = parameter
            for key, value in self._adamw.state[parameter].items():
                tensors[f"{i}.{key}"] = value
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            values = [*(scaler[name] for name in _SCALER_STATE), self.overflows]
            tensors["loss_scale"] = torch.tensor(values, dtype=torch.float64)
        return tensors

    def load(self, saved: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned, in place. Raises KeyError if one is missing."""
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(saved[f"{i}"])
                state = self._adamw.state[parameter]
                for name in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{i}.{name}" not in saved:  # AdamW has no state before the first step
                        if name in state:
                            state[name].zero_()
                    elif name in state:
                        state[name].copy_(saved[f"{i}.{name}"])
                    else:
                        state[name] = saved[f"{i}.{name}"].to(parameter.device, copy=True)
        if self._scaler.is_enabled() and "loss_scale" in saved:  # an attempt in float32 saved none
            *scaler, overflows = saved["loss_scale"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | dict(zip(_SCALER_STATE, scaler, strict=True)))
            self._overflows.fill_(overflows)
