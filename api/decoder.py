"""Start the process that decodes an upload (`api.decode`) or reads its marks (`api.read_marks`), and check its answer.

The process imports from where this one does (`sys.path`), because packages may come from PYTHONPATH, the user's folder
or a module system. Of the environment it gets only what an interpreter may need to start.
"""

import asyncio
import hashlib
import json
import os
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import structlog
from PIL import Image
from starlette.concurrency import run_in_threadpool

from api import decode
from api.domain.errors import Unavailable
from opad_core.reference_images import MAX_SIDE, Refused, reads_heic

log = structlog.get_logger()

Answer = TypeVar("Answer")

_SECONDS = 20
_MAX_PNG_BYTES = 4 * MAX_SIDE**2
_MAX_ERROR_BYTES = 1 << 16
_START = (
    "import importlib, sys; name, argument, *sys.path[:] = sys.argv[1:]; importlib.import_module(name).main(argument)"
)
_ENVIRONMENT = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
_TRUSTED_SECONDS = 60
"""How long a decoder that has started counts as working, so that frequent probes of /readyz cost nothing."""


class CannotStart(Exception):
    """The decoder's process does not start here. The message is what the process printed."""


@dataclass(frozen=True)
class CleanImage:
    """A re-encoded upload: 8-bit RGB PNG without metadata."""

    png: bytes
    sha256: str
    width: int
    height: int
    says_generated: bool = False
    """The file's metadata says that a model generated it. Anybody can write or remove that."""


class Decoder:
    """Decodes uploads in processes of their own, a few at a time."""

    def __init__(self, *, heic: bool) -> None:
        """Read HEIC too, if `heic` is true and its package is installed."""
        self.heic = reads_heic(heic)
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 2))
        self._trusted_until = 0.0

    async def decode(self, file: IO[bytes]) -> CleanImage | Refused:
        """Decode a spooled or real file; the process reads it, and the api never loads it into memory.

        Raises Unavailable if the process does not start: that is no fault of the photo.
        """
        return await self._run(decoded(file, heic=self.heic))

    async def read_marks(self, file: IO[bytes], *, trusted: str) -> dict[str, Any] | Refused:
        """Read the marks of a file, as `decode` reads its pixels; `api.read_marks` describes the answer."""
        return await self._run(marks_read(file, trusted=trusted, heic=self.heic))

    async def _run(self, reading: Awaitable[Answer]) -> Answer:
        async with self._slots:
            try:
                answer = await reading
            except CannotStart as error:
                self._trusted_until = 0
                log.error("decoder.cannot_start", reason=str(error))
                raise Unavailable(
                    "photos cannot be decoded here because the decoder does not start; this is no fault of the photos. "
                    "The operator finds the reason with `opad doctor` and in the api's log",
                    "decoder_unavailable",
                ) from error
        self._trusted_until = time.monotonic() + _TRUSTED_SECONDS
        return answer

    async def ready(self) -> bool:
        """Return whether the process starts and decodes."""
        if time.monotonic() < self._trusted_until:
            return True
        try:
            with tempfile.TemporaryFile() as file:
                Image.new("RGB", (64, 64)).save(file, "PNG")
                return isinstance(await self.decode(file), CleanImage)
        except (Unavailable, OSError):  # the latter on a full disk
            return False


async def decoded(file: IO[bytes], *, heic: bool) -> CleanImage | Refused:
    """Run `api.decode` on one file. Raises CannotStart, and Unavailable for an answer that cannot be trusted."""
    answer, status = await _answer("api.decode", "heic" if heic else "no-heic", file, most=_MAX_PNG_BYTES)
    return await run_in_threadpool(_verified, answer, status)


async def marks_read(file: IO[bytes], *, trusted: str, heic: bool) -> dict[str, Any] | Refused:
    """Run `api.read_marks` on one file. `trusted` are certificates as PEM. Raises CannotStart."""
    argument = json.dumps({"trusted": trusted, "heic": heic})
    answer, status = await _answer("api.read_marks", argument, file, most=_MAX_ERROR_BYTES)
    if not answer:
        return _crashed(status)
    said: dict[str, Any] = json.loads(answer)
    return said if said["ok"] else Refused(str(said["kind"]), str(said["message"]))


async def _answer(module: str, argument: str, file: IO[bytes], *, most: int) -> tuple[bytes, int | None]:
    """Run a module's `main(argument)` with the file as its standard input. Return what it wrote, and its status."""
    await run_in_threadpool(_rewind_to_disk, file)
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-s", "-S", "-P", "-B", "-c", _START, module, argument, *_import_paths(),
            stdin=file, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=_environment(),
            close_fds=True,
        )  # fmt: skip
    except OSError as error:
        raise CannotStart(f"{sys.executable}: {error}") from error
    assert child.stdout is not None
    assert child.stderr is not None
    answer = printed = b""
    try:
        async with asyncio.timeout(_SECONDS):
            answer, printed = await asyncio.gather(
                _read_at_most(child.stdout, most), _read_at_most(child.stderr, _MAX_ERROR_BYTES)
            )
            await child.wait()
    except TimeoutError:  # it hangs, or writes more than an answer can have
        answer = decode.STARTED
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
    if not answer.startswith(decode.STARTED):
        reason = printed.decode(errors="replace").strip()[-500:]
        raise CannotStart(f"status {child.returncode}: {reason}")
    return answer.removeprefix(decode.STARTED), child.returncode


def _import_paths() -> list[str]:
    """Return where the process imports from: this project and Pillow, wherever they are, then as this process does."""
    packages = [str(Path(str(module.__file__)).resolve().parents[1]) for module in (decode, Image)]
    return list(dict.fromkeys([*packages, *(os.path.abspath(path) for path in sys.path)]))


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _rewind_to_disk(file: IO[bytes]) -> None:
    if isinstance(file, tempfile.SpooledTemporaryFile):
        file.rollover()
    file.flush()
    os.lseek(file.fileno(), 0, os.SEEK_SET)


async def _read_at_most(stream: asyncio.StreamReader, limit: int) -> bytes:
    data = bytearray()
    while len(data) <= limit and (chunk := await stream.read(1 << 16)):
        data += chunk
    return bytes(data)


def _verified(answer: bytes, status: int | None) -> CleanImage | Refused:
    """Check the decoder's output, as it may be hijacked: accept only a small 8-bit RGB PNG of the size it names."""
    line, _, png = answer.partition(b"\n")
    if not line:
        return _crashed(status)
    said = json.loads(line)
    if not said["ok"]:
        return Refused(str(said["kind"]), str(said["message"]))
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBB", said["width"], said["height"], 8, 2)
    if not png.startswith(header) or len(png) > _MAX_PNG_BYTES:
        raise Unavailable("the decoder returned no valid PNG; please report this file", "decoder_failed")
    return CleanImage(png, hashlib.sha256(png).hexdigest(), said["width"], said["height"], said["generated"] is True)


def _crashed(status: int | None) -> Refused:
    if status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL):
        return Refused("damaged", "makes its decoder fail; save it again as plain JPEG or PNG")
    return Refused("too_costly", "needs too much memory or time to decode; save it again as plain JPEG or PNG")
