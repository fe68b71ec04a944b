"""Rendering in as many processes as there are cores."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from opad_core.nano.build.world import World

_CHUNK = 50  # numbers per request to a process
_world: World  # each process has its own

Rendered = TypeVar("Rendered")


def render_all(
    render: Callable[[World, int], Rendered], numbers: range, load: Callable[[str], Image.Image], *, label: str
) -> Iterator[Rendered]:
    """Yield the result of `render` for each number, in order. `load` is the argument of World.

    Both functions are sent to other processes, so they cannot be lambdas.
    """
    with ProcessPoolExecutor(os.cpu_count(), initializer=_start, initargs=(load,)) as processes:
        rendered = processes.map(partial(_render, render), numbers, chunksize=_CHUNK)
        yield from tqdm(rendered, desc=label, total=len(numbers), mininterval=5)


def _start(load: Callable[[str], Image.Image]) -> None:
    global _world
    _world = World(load)


def _render(render: Callable[[World, int], Rendered], number: int) -> Rendered:
    return render(_world, number)
