"""Plot the losses of a training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

PANELS = {
    "teacher": ("rec",),
    "alignment": ("id", "mse", "swd"),
    "student against the discriminators": ("adv_dino", "adv_dinov2", "adv_clip"),
    "discriminators": ("d_dino", "d_dinov2", "d_clip"),
}
_SMOOTHING = 0.9


def read_losses(file: Path) -> list[dict[str, float]]:
    """Read losses from a file with one JSON object per iteration; return none if the file does not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def draw_losses(losses: Sequence[Mapping[str, float]], file: Path) -> None:
    """Plot the losses, one entry per iteration, in four panels: raw values are faint, running means bold."""
    from matplotlib.figure import Figure  # here because it takes 0.4 s

    figure = Figure(figsize=(11, 6), layout="constrained")
    for place, (title, names) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        axes.set_title(title, fontsize=10)
        for name in names:
            points = [(step, row[name]) for step, row in enumerate(losses, start=1) if name in row]
            if points:
                steps, values = zip(*points, strict=True)
                [faint] = axes.plot(steps, values, linewidth=0.5, alpha=0.35)
                axes.plot(steps, _smoothed(values), color=faint.get_color(), label=name)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        axes.set_yscale("log")  # MS-SWD is fifty times as large as L_id
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("iteration", fontsize=9)
    figure.savefig(file, dpi=110)


def _smoothed(values: Sequence[float]) -> list[float]:
    mean, smoothed = values[0], []
    for value in values:
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        smoothed.append(mean)
    return smoothed
