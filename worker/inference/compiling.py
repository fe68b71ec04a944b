"""Compile the engine's networks while it serves, and then use them.

A child process compiles into a cache that later starts read. There is one attempt per start: what failed once would
fail again.
"""

import subprocess
import sys
import time
from concurrent.futures import CancelledError
from pathlib import Path

import structlog

from opad_core import OneStepGenerator, Precision, capture, has_compiled, load_compile_cache
from worker.background import Background
from worker.inference.batching import Batcher
from worker.inference.compile_obstacle import compile_obstacle
from worker.stack.parent_death import dies_with_parent

log = structlog.get_logger()

_CHECK_SECONDS = 0.5


class NotCompiled(Exception):
    """The reason in one sentence."""


def capture_on_gpu(generator: OneStepGenerator) -> str | None:
    """Replay the networks as CUDA graphs from now on, which takes seconds. Return why this failed, if it did."""
    if generator.base.device.type != "cuda":
        return None
    try:
        functions, steps = capture(generator, generator.modules)
        for step in steps:
            step()
    except RuntimeError as error:  # also too little memory
        log.warning("engine.not_captured", error=str(error))
        return f"CUDA graphs cannot be captured here: {str(error).splitlines()[0]}"
    generator.use(functions, "captured")
    return None


class Compiling(Background):
    """`with Compiling(...):` compiles and then replaces the generator's networks, in the batcher's thread."""

    def __init__(
        self,
        generator: OneStepGenerator,
        batcher: Batcher,
        *,
        compiler: str,
        cache: Path,
        bases: Path,
        precision: Precision,
    ) -> None:
        super().__init__("compiling")
        self._generator, self._batcher, self._compiler, self._cache = generator, batcher, compiler, cache
        self._bases, self._precision = bases, precision
        generator.examples(1)  # before another thread uses the generator
        self.reason: str | None = "it compiles in the background"
        """Why the engine does not run compiled networks; None if it does."""

    def _run(self) -> None:
        started = time.monotonic()
        try:
            self._compile()
        except CancelledError:
            return  # the engine is stopping
        except Exception as error:  # noqa: BLE001  # the outermost call of the thread; the engine serves as before
            self.reason = str(error) if isinstance(error, NotCompiled) else f"{type(error).__name__}: {error}"
            log.warning("engine.not_compiled", engine_level=self._generator.level, reason=self.reason)
            return
        self.reason = None
        log.info("engine.compiled", compiler=self._compiler, seconds=round(time.monotonic() - started, 1))

    def _compile(self) -> None:
        if not has_compiled(self._cache, self._generator, self._compiler):
            if obstacle := compile_obstacle(self._cache, device=self._generator.base.device.type):
                raise NotCompiled(obstacle)
            self._fill_cache()
            self._raise_if_stopping()
        functions = load_compile_cache(
            self._generator, self._cache, self._compiler, before_each=self._raise_if_stopping
        )  # fmt: skip
        if self._generator.base.device.type == "cuda":
            functions, steps = capture(self._generator, functions)
            for step in steps:
                self._batcher.between_batches(step).result()
        self._batcher.between_batches(lambda: self._generator.use(functions, "compiled")).result()

    def _raise_if_stopping(self) -> None:
        if self._stopping.is_set():
            raise CancelledError

    def _fill_cache(self) -> None:
        base = self._generator.base
        child = subprocess.Popen(
            dies_with_parent(
                sys.executable, "-m", "worker.inference.compile", "--base", str(base.folder),
                "--bases", str(self._bases), "--device", str(base.device), "--precision", self._precision,
                "--compiler", self._compiler, "--cache", str(self._cache),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        log.info("engine.compiling", compiler=self._compiler, pid=child.pid)
        while True:
            try:
                output, _ = child.communicate(timeout=_CHECK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if self._stopping.is_set():
                    child.kill()
        if child.returncode < 0 and not self._stopping.is_set():
            raise NotCompiled(
                f"the compiling process was ended by signal {-child.returncode}, maybe for lack of memory"
            )
        if child.returncode > 0:
            raise NotCompiled((output.strip().splitlines() or ["the compiling process failed; see the log"])[-1])
