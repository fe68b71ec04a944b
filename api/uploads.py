"""Read uploaded images from a multipart body. Sizes are checked while it streams in; a child process decodes."""

import asyncio
import hashlib
import json
import os
import re
import struct
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from api import decode
from api.domain.errors import Invalid, Malformed, TooLarge, Unavailable, UnsupportedMedia
from api.domain.settings import Settings

_SURPLUS_FILES = 15
"""How many surplus files an error still counts; a body with more is not read to its end."""
_DECODE_SECONDS = 20
_MAX_PNG_BYTES = 4 * decode.MAX_SIDE**2


@dataclass(frozen=True)
class CleanImage:
    """A re-encoded upload: 8-bit RGB PNG without metadata."""

    png: bytes
    sha256: str
    width: int
    height: int


class _CountingParser(MultiPartParser):
    """A parser that refuses a too large file while it streams in, and names it."""

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], *, max_files: int, max_file_bytes: int
    ) -> None:
        super().__init__(headers, stream, max_files=max_files, max_fields=20, max_part_size=64 * 1024)
        self._max_file_bytes = max_file_bytes
        self._file_bytes = 0

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._file_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        super().on_part_data(data, start, end)
        file = self._current_part.file
        if file is None:
            return
        self._file_bytes += end - start
        if self._file_bytes > self._max_file_bytes:
            label = describe(self._current_files - 1, file.filename)
            limit = self._max_file_bytes // 1024**2
            raise TooLarge(
                f"{label} is larger than {limit} MB; scale it down or save it as JPEG",
                "file_too_large",
                errors=[{"field": f"images[{self._current_files - 1}]", "message": f"is larger than {limit} MB"}],
            )


async def read_form(request: Request, settings: Settings) -> FormData:
    """Read a multipart body. The route calls it after the key was checked, and closes the form."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedMedia(
            f"the content type is {content_type or 'missing'}; send multipart/form-data "
            f"with the fields images ({settings.reference_count('file')}), name and class_noun",
            "not_multipart",
        )
    max_file_bytes = settings.max_upload_mb * 1024**2
    max_body_bytes = (settings.max_references + 1) * max_file_bytes
    body_bytes = 0

    async def counted() -> AsyncGenerator[bytes, None]:
        nonlocal body_bytes
        async for chunk in request.stream():
            body_bytes += len(chunk)
            if body_bytes > max_body_bytes:
                raise TooLarge(
                    f"the upload is larger than {max_body_bytes // 1024**2} MB; "
                    f"send {settings.reference_count('image')} of at most {settings.max_upload_mb} MB each",
                    "body_too_large",
                )
            yield chunk

    max_files = settings.max_references + _SURPLUS_FILES
    parser = _CountingParser(request.headers, counted(), max_files=max_files, max_file_bytes=max_file_bytes)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Malformed(f"the multipart body cannot be read: {error.message}", "malformed_multipart") from error


def describe(index: int, filename: str | None) -> str:
    """Return how a message names an uploaded file: its position and the printable part of its name."""
    name = re.split(r"[/\\]", filename or "")[-1]
    name = "".join(c for c in name if c.isprintable() and c not in "\"'<>&")[:60]
    return f'image {index + 1} ("{name}")' if name else f"image {index + 1}"


async def clean_images(
    files: Sequence[UploadFile], decoders: asyncio.Semaphore, settings: Settings
) -> list[CleanImage]:
    """Decode the uploads. Raises Invalid or UnsupportedMedia, which says for each bad file what is wrong.

    `decoders` limits the decode processes of this api process.
    """
    if not settings.min_references <= len(files) <= settings.max_references:
        raise Invalid(
            f"needs {settings.reference_count('reference image')} in the field `images`, got {len(files)}; "
            + ("add more" if len(files) < settings.min_references else "leave some out"),
            "image_count",
            errors=[{"field": "images", "message": f"needs {settings.reference_count('file')}, got {len(files)}"}],
        )
    results = await asyncio.gather(*(_decode(file, decoders) for file in files))
    refusals = {index: result for index, result in enumerate(results) if isinstance(result, decode.Refused)}
    if refusals:
        _raise_refusals(files, refusals)
    images = [result for result in results if isinstance(result, CleanImage)]
    different = len({image.sha256 for image in images})
    if different < settings.min_references:
        raise Invalid(
            f"the {len(images)} images are only {different} different one{'s' * (different > 1)}; "
            f"send {settings.reference_count('different photo')} of the thing, from several sides",
            "identical_images",
            errors=[{"field": "images", "message": f"{different} different of {len(images)}"}],
        )
    return images


def _raise_refusals(files: Sequence[UploadFile], refusals: dict[int, decode.Refused]) -> None:
    """Raise one error for all bad files; the first file decides its kind."""
    sentences = [f"{describe(index, files[index].filename)} {refusal}" for index, refusal in refusals.items()]
    errors = [
        {"field": f"images[{index}]", "message": sentence, "code": refusal.kind}
        for (index, refusal), sentence in zip(refusals.items(), sentences, strict=True)
    ]
    first = next(iter(refusals.values()))
    error = UnsupportedMedia if first.kind == "format" else Invalid
    raise error(". ".join(sentences), f"image_{first.kind}", errors=errors)


async def _decode(file: UploadFile, decoders: asyncio.Semaphore) -> CleanImage | decode.Refused:
    """Run `api.decode` on one file. The child reads the spooled file itself; the api never loads it into memory."""
    async with decoders:
        await run_in_threadpool(_rewind_to_disk, file)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-I", decode.__file__, stdin=file.file, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, env={}, close_fds=True,
        )  # fmt: skip
        assert child.stdout is not None
        try:
            async with asyncio.timeout(_DECODE_SECONDS):
                answer = await _read_at_most(child.stdout, _MAX_PNG_BYTES)
                await child.wait()
        except TimeoutError:  # it hangs, or writes more than an image can have
            answer = b""
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
    return await run_in_threadpool(_verify, answer)


def _rewind_to_disk(file: UploadFile) -> None:
    file.file.rollover()  # type: ignore[attr-defined]  # starlette's is a SpooledTemporaryFile, typed as BinaryIO
    file.file.flush()
    os.lseek(file.file.fileno(), 0, os.SEEK_SET)


async def _read_at_most(stream: asyncio.StreamReader, limit: int) -> bytes:
    data = bytearray()
    while len(data) <= limit and (chunk := await stream.read(1 << 16)):
        data += chunk
    return bytes(data)


def _verify(answer: bytes) -> CleanImage | decode.Refused:
    """Check the decoder's output, as it may be hijacked: accept only a small 8-bit RGB PNG of the size it names."""
    line, _, png = answer.partition(b"\n")
    if not line:  # killed by its limits
        return decode.Refused("damaged", "needs too much memory or time to decode; save it again as plain JPEG or PNG")
    said = json.loads(line)
    if not said["ok"]:
        return decode.Refused(str(said["kind"]), str(said["message"]))
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBB", said["width"], said["height"], 8, 2)
    if not png.startswith(header) or len(png) > _MAX_PNG_BYTES:
        raise Unavailable("the decoder returned no valid PNG; please report this file", "decoder_failed")
    return CleanImage(png, hashlib.sha256(png).hexdigest(), said["width"], said["height"])
