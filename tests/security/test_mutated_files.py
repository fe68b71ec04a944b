"""Images with broken bytes through the decoder's process: each is cleaned or refused with a message.

A few in every run; `make fuzz` sends OPAD_FUZZ_FILES of them.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from typing import IO

import psutil

from api.decoder import CleanImage, decoded
from opad_core.reference_images import Refused
from tests.api.reference_images import png_of
from tests.security.bad_files import mutations

COUNT = int(os.environ.get("OPAD_FUZZ_FILES", "40"))


def test_broken_images_are_cleaned_or_refused_and_no_process_stays() -> None:
    async def through(files: list[bytes]) -> list[CleanImage | Refused]:
        two = asyncio.Semaphore(2)

        async def through_one(data: bytes) -> CleanImage | Refused:
            async with two:
                return await decoded(_spooled(data), heic=True)

        return await asyncio.gather(*map(through_one, files))

    results = asyncio.run(through(mutations(COUNT)))

    clean = [result for result in results if isinstance(result, CleanImage)]
    refused = [result for result in results if isinstance(result, Refused)]
    assert len(clean) + len(refused) == COUNT
    assert clean, "none passed: the mutations are too coarse to reach the codecs"
    assert refused
    assert all(png_of(image.png).info == {} for image in clean)
    assert not any("api.decode" in " ".join(child.cmdline()) for child in psutil.Process().children())


def _spooled(data: bytes) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115  closed with its last reference
    file.write(data)
    return file


def test_the_decoder_runs_under_tight_limits() -> None:
    """The limits (setrlimit(2)) are set before the first untrusted byte is read."""
    code = (
        "import resource as r; from api import decode; decode._limit_resources(); "
        "print([r.getrlimit(getattr(r, 'RLIMIT_' + n))[1] for n in ('AS', 'CPU', 'FSIZE', 'CORE', 'NOFILE')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[1073741824, 5, 0, 0, 8]"
