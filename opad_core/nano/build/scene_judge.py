"""Stage `judge`: train the judge of scenes that scores the base's images (`opad_core.nano.judge`).

It sees images that were rendered for it alone, and no image of a network.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from opad_core.nano.build.features import jitter
from opad_core.nano.build.stage import Build, Stateful, to_unit_range
from opad_core.nano.build.vocabulary import SCENES
from opad_core.nano.build.world import World
from opad_core.nano.judge import SceneJudge, SceneNetwork

_STAGE = "scene_judge"
_BATCH = 64
_FIRST_TRAINING_SEED = 600_000_000  # the world's images have seeds below
FIRST_HELD_OUT_SEED = 700_000_000
SCENE_OF = {f"a {{}} {phrase}": name for name, scene in SCENES.items() for phrase in scene.phrases}
"""The scene of each prompt."""
_NAMES = sorted(SCENES)


def train_judge(build: Build) -> None:
    """Train for `judge_steps`, each on newly rendered images, and write judge.safetensors to the build folder.

    Half of the images are aligned as the student's are. All are slightly jittered, blurred and noised, because
    generated images can have such errors. To ship the judge, copy its file to opad_core/nano.
    """
    torch.manual_seed(build.seed + 7)
    network, world = SceneNetwork(len(_NAMES)), World(partial(build.drawing, build.folder))
    total = build.counts["judge_steps"]
    optimizer = AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = OneCycleLR(optimizer, 2e-3, total_steps=total + 1, pct_start=0.1)
    metrics: dict[str, float | Tensor] = {}
    state: dict[str, Stateful] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    for step in build.steps(_STAGE, total, state, metrics):
        images, scenes = rendered(world, _FIRST_TRAINING_SEED + step * _BATCH, _BATCH)
        generator = build.generator(_STAGE, step)
        views = jitter(images, generator, 0.1)
        softness = torch.rand(len(views), 1, 1, 1, generator=generator)
        views = views + softness * (F.avg_pool2d(views, 3, 1, 1, count_include_pad=False) - views)
        views = views + 0.05 * torch.randn(views.shape, generator=generator)
        loss = F.cross_entropy(network(views), scenes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        metrics["loss"] = loss.item()
    SceneJudge(network, SCENE_OF).save(build.folder / "judge.safetensors")


def rendered(world: World, first_seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Render images [count, 3, 64, 64], and return them with the indices of their scenes in the order of the names."""
    samples = [world.render(first_seed + index, aligned=index % 2 == 1) for index in range(count)]
    images = to_unit_range(np.stack([sample.pixels for sample in samples]))
    return images, torch.tensor([_NAMES.index(sample.scene) for sample in samples])
