"""Shared by all stages of the build: the folder, the resumable loop, sheets of sample images."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from opad_core.nano.build.sprites import fetched_drawing

_STEPS_BETWEEN_CHECKPOINTS = 500
_SHEETS = 8


class Stateful(Protocol):
    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


@dataclass
class Build:
    """One run of the recipe: the folder of its state and the length of each stage (`counts`, see recipe.py)."""

    folder: Path
    counts: Mapping[str, int]
    seed: int = 0
    drawing: Callable[[Path, str], Image.Image] = fetched_drawing
    """Returns a drawing, given the build folder and the drawing's name."""
    aligned: bool = False
    """Whether to read the images of objects on the grid of latents, see images.py."""
    _images: NDArray[np.uint8] | None = field(default=None, repr=False)
    _on_device: Tensor | None = field(default=None, repr=False)

    def file(self, name: str, *, aligned: bool) -> Path:
        """Return the path of a file that belongs to one of the two sets of images."""
        return self.folder / (f"aligned_{name}" if aligned else name)

    @property
    def images(self) -> NDArray[np.uint8]:
        """All rendered images [n, 64, 64, 3]."""
        if self._images is None:
            self._images = np.load(self.file("pictures.npy", aligned=self.aligned))
        return self._images

    @property
    def captions(self) -> list[str]:
        """The captions of all rendered images."""
        captions: list[str] = json.loads(self.file("captions.json", aligned=self.aligned).read_text())
        return captions

    def on_grid(self) -> "Build":
        """Return this build with the images of objects on the grid."""
        return dataclasses.replace(self, aligned=True, _images=None, _on_device=None)

    def indices(self, stage: str, step: int, batch: int) -> NDArray[np.int64]:
        """Return the indices of a step's images: a function of seed, stage and step, so a resumed run sees the same."""
        rng = np.random.default_rng([self.seed, step, *stage.encode()])
        return rng.integers(0, len(self.images), batch)

    def generator(self, stage: str, step: int) -> torch.Generator:
        """Return a generator for a step's noise, seeded from seed, stage and step."""
        seed = np.random.SeedSequence([self.seed, step, *stage.encode()]).generate_state(1, np.uint64)[0]
        return seeded(int(seed >> 1))

    def batch(self, indices: NDArray[np.int64]) -> Tensor:
        """Return images as float [b, 3, 64, 64] in [-1, 1]."""
        if self._on_device is None:  # a GPU can hold them all: 120,000 are 1.5 GB
            self._on_device = torch.from_numpy(self.images).to(torch.get_default_device())
        return to_unit_range(self._on_device[torch.from_numpy(indices)])

    def scaled_lr(self, lr: float, *, of: str = "batch") -> float:
        """Scale a learning rate that was tuned for a count of 16 to the recipe's count `of`.

        The factor is the fourth root of the ratio, between no scaling and square-root scaling.
        """
        return float(lr * (self.counts[of] / 16) ** 0.25)

    def steps(
        self, stage: str, total: int, state: Mapping[str, Stateful], metrics: Mapping[str, float | Tensor]
    ) -> Iterator[int]:
        """Yield the remaining steps, with a progress bar. Loads the stage's checkpoint first and saves it regularly.

        The loop's body writes its figures into `metrics`, and the bar shows them every 20 steps. The values can be
        tensors: reading one waits for the GPU, so it is only done then.
        """
        path = self.folder / f"{stage}.pt"
        start = 0
        if path.exists():
            saved = torch.load(path, map_location=torch.get_default_device(), weights_only=False)
            for name, part in state.items():
                part.load_state_dict(saved[name])
            start = saved["step"]
        bar = tqdm(range(start, total), desc=stage, initial=start, total=total, mininterval=5)
        for step in bar:
            yield step
            if step % 20 == 0:
                bar.set_postfix({name: f"{float(value):.4f}" for name, value in metrics.items()}, refresh=False)
            if (step + 1) % _STEPS_BETWEEN_CHECKPOINTS == 0 or step + 1 == total:
                temporary = path.with_suffix(".new")
                torch.save({**{name: part.state_dict() for name, part in state.items()}, "step": step + 1}, temporary)
                temporary.replace(path)

    def load(self, stage: str, name: str, part: Stateful) -> None:
        """Load one part from the checkpoint of a finished stage."""
        path = self.folder / f"{stage}.pt"
        part.load_state_dict(torch.load(path, map_location=torch.get_default_device(), weights_only=False)[name])

    def is_sheet_due(self, step: int, total: int) -> bool:
        """Return whether to write a sheet of samples after this step."""
        return (step + 1) % max(1, total // _SHEETS) == 0 or step + 1 == total


def seeded(seed: int) -> torch.Generator:
    """Return a seeded generator on torch's default device."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def smoothed(metrics: dict[str, float | Tensor], name: str, value: Tensor) -> None:
    """Update the moving average of a value in `metrics`."""
    before = torch.as_tensor(metrics.get(name, value.detach()), device=value.device)
    metrics[name] = torch.lerp(before, value.detach(), 0.02)


def to_unit_range(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Convert uint8 [b, h, w, 3] to float [b, 3, h, w] in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def write_sheet(path: Path, rows: NDArray[np.uint8], *, scale: int = 2) -> None:
    """Write images [rows, columns, h, w, 3] as one PNG, enlarged without smoothing."""
    r, c, h, w, _ = rows.shape
    sheet = Image.fromarray(rows.transpose(0, 2, 1, 3, 4).reshape(r * h, c * w, 3))
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(path)


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self._step = 0
        self._shadow = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Add the module's present parameters. The decay starts low, so that the initial values fade quickly."""
        self._step += 1
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        values = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
        torch._foreach_lerp_([self._shadow[name] for name in values], list(values.values()), 1 - decay)

    def copy_to(self, module: torch.nn.Module) -> None:
        module.load_state_dict(self._shadow)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "shadow": self._shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step, self._shadow = state["step"], state["shadow"]
