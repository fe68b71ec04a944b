"""Drawing in as many processes as there are cores, each with a world of its own."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from opad_core.nano.build.world import World

_CHUNK = 50  # numbers that a process takes at a time
_world: World  # of one such process

Drawn = TypeVar("Drawn")


def draw_all(
    draw: Callable[[World, int], Drawn], numbers: range, load: Callable[[str], Image.Image], *, label: str
) -> Iterator[Drawn]:
    """What `draw` makes of each number, in their order; `load` as for World. Both go to other processes: no lambdas."""
    with ProcessPoolExecutor(os.cpu_count(), initializer=_start, initargs=(load,)) as processes:
        drawn = processes.map(partial(_drawn, draw), numbers, chunksize=_CHUNK)
        yield from tqdm(drawn, desc=label, total=len(numbers), mininterval=5)


def _start(load: Callable[[str], Image.Image]) -> None:
    global _world
    _world = World(load)


def _drawn(draw: Callable[[World, int], Drawn], number: int) -> Drawn:
    return draw(_world, number)
