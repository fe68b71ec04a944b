"""Decode one uploaded image from stdin and write a clean PNG to stdout: the process that `api.decoder` starts.

Image codecs are written in C and read untrusted bytes. So they run here and never in the api: in a process with limits
on memory and time, no secrets and no files. Stdout is a line that says that the process has started, a line of
JSON, then the PNG if that line says ok.
"""

import io
import json
import os
import resource
import sys
import warnings
from contextlib import suppress
from typing import Any

from PIL import Image

from api.domain.provenance import says_generated
from opad_core.reference_images import Refused, decode

STARTED = b"opad decoder\n"
_MEMORY_BYTES = 1 << 30
_CPU_SECONDS = 5


def main(argument: str) -> None:
    """Decode standard input. `argument` is `heic` if HEIC may be read."""
    heic = argument == "heic"
    begin(heic=heic)
    answer: dict[str, Any]
    png = b""
    try:
        data = sys.stdin.buffer.read()
        image = decode(data, heic=heic and "pillow_heif" in sys.modules)
    except Refused as refusal:
        answer = {"ok": False, "kind": refusal.kind, "message": str(refusal)}
    else:
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=4)
        png = file.getvalue()
        answer = {"ok": True, "width": image.width, "height": image.height, "generated": says_generated(data)}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + png)


def begin(*, heic: bool) -> None:
    """Load the codecs, limit the process, and write the line that says that it has started."""
    warnings.simplefilter("ignore")
    Image.preinit()  # the codecs are loaded before the limits forbid opening files
    if heic:
        with suppress(ImportError):  # then HEIC is refused as a format that is not read here
            import pillow_heif  # noqa: F401  loads the codec before the limits
    nowhere = os.open(os.devnull, os.O_WRONLY)
    _limit_resources()
    sys.stdout.buffer.write(STARTED)
    sys.stdout.buffer.flush()
    os.dup2(nowhere, sys.stderr.fileno())  # what a codec prints about untrusted bytes is not logged


def _limit_resources() -> None:
    for name, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 8),
    ):
        hard = resource.getrlimit(name)[1]  # the host may allow less, and nobody may raise it
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (limit, limit))
