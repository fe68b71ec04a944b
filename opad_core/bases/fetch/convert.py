"""Convert a published pickle to safetensors, in a process without a network, and check what comes back."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open

from opad_core.bases.fetch.no_network import NO_NAMESPACE, command, environment
from opad_core.bases.fetch.unpickle import DTYPES, Outcome
from opad_core.errors import OpadError

Shapes = dict[str, tuple[int, ...]]
"""The shape of each tensor of a network, by its name."""
_PROGRAM = "from opad_core.bases.fetch.unpickle import main; main()"
_SECONDS = 1800
"""A disk that reads and writes 4 MB a second needs this long for SD 2.1's UNet."""
_BESIDES = 4 << 20
"""Bytes that a pickle may have beside the numbers: SD 2.1's UNet needs 0.1 MB for the names of its tensors."""
_SENTENCES = {
    Outcome.NOT_TENSORS: "holds more than named tensors, which could run any code; it is refused",
    Outcome.DAMAGED: "is damaged, or no file that PyTorch writes",
    Outcome.TOO_LARGE: "claims more data than the network has; it is refused",
}


def unet_shapes(config: dict[str, Any]) -> Shapes:
    """Return the tensors of a UNet with this configuration. Raises OpadError for a configuration that has none."""
    try:
        with torch.device("meta"):
            network: Any = UNet2DConditionModel.from_config(config)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise OpadError(f"the configuration of the UNet cannot be read: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_can_convert(remedy: str) -> None:
    """Raise OpadError, which ends with the remedy, if no process without a network can be started here."""
    if command("") is None:
        raise OpadError(
            "a published pickle is converted only in a process without a network, and this machine allows none: "
            f"install bubblewrap (bwrap), or {remedy}"
        )


def convert(pickled: Path, target: Path, *, shapes: Shapes, name: str) -> None:
    """Write the tensors of a pickled state dict to `target` as safetensors.

    They must have exactly these names and shapes, and be floating-point numbers. `name` says in messages what the
    pickle is. Raises OpadError and leaves no file otherwise.
    """
    most = 4 * sum(torch.Size(shape).numel() for shape in shapes.values()) + _BESIDES
    run = command(_PROGRAM, str(most))
    if run is None:
        raise OpadError(f"{name} cannot be converted: no process without a network can be started here")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with pickled.open("rb") as source, target.open("wb") as written:
            try:
                child = subprocess.run(
                    run, stdin=source, stdout=written, stderr=subprocess.PIPE, env=environment(), timeout=_SECONDS,
                    check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise OpadError(f"{name} was not converted within {_SECONDS // 60} minutes; it is refused") from None
        if child.returncode != Outcome.CONVERTED:
            raise OpadError(f"{name} {_reason(child.returncode, child.stderr)}")
        if reason := _misfit(target, shapes):
            raise OpadError(f"{name} is not the network that was expected: {reason}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _reason(status: int, printed: bytes) -> str:
    if status in _SENTENCES:
        return _SENTENCES[Outcome(status)]
    if status < 0:
        return f"ended the process that reads it with signal {-status}; it is refused"
    if status == NO_NAMESPACE:
        return "cannot be converted: the process could not leave the network"
    last = printed.decode(errors="replace").strip().splitlines()[-1:]
    return f"cannot be converted: {sys.executable} ended with status {status}: {''.join(last)}"


def _misfit(file: Path, shapes: Shapes) -> str | None:
    """Return why the file holds other tensors than these; None if it holds them. The writer is not trusted."""
    try:
        with safe_open(file, "pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  # no mapping
            found = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {part.get_dtype() for part in slices.values()}
    except SafetensorError as error:
        return f"its conversion cannot be read: {error}"
    if missing := sorted(shapes.keys() - found.keys()):
        return f"it lacks {len(missing)} tensors, the first is {missing[0]}"
    if foreign := sorted(found.keys() - shapes.keys()):
        return f"it has {len(foreign)} other tensors, the first is {foreign[0]!r:.100}"
    for name, shape in shapes.items():
        if found[name] != shape:
            return f"{name} has the shape {list(found[name])}, not {list(shape)}"
    if unusual := dtypes - set(DTYPES.values()):
        return f"it has tensors of {sorted(unusual)[0]}"
    return None
