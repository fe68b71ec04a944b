"""Read uploaded images from a multipart body. Sizes are checked while it streams in; a child process decodes."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from api.decoder import CleanImage, Decoder
from api.domain.errors import DomainError, Invalid, Malformed, TooLarge, UnsupportedMedia
from api.domain.settings import Settings
from opad_core.reference_images import Refused, duplicates, same_image

_SURPLUS_FILES = 15
"""How many surplus files an error still counts; a body with more is not read to its end."""


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


async def read_form(request: Request, settings: Settings, *, fields: str) -> FormData:
    """Read a multipart body. The route calls it after the key was checked, and closes the form.

    `fields` names what to send, for the answer to a body of another type.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedMedia(
            f"the content type is {content_type or 'missing'}; send multipart/form-data with {fields}",
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


async def clean_images(files: Sequence[UploadFile], decoder: Decoder, settings: Settings) -> list[CleanImage]:
    """Decode the uploads. Raises Invalid or UnsupportedMedia, which says for each bad file what is wrong.

    Raises Unavailable if the decoder does not start.
    """
    if not settings.min_references <= len(files) <= settings.max_references:
        raise Invalid(
            f"needs {settings.reference_count('reference image')} in the field `images`, got {len(files)}; "
            + ("add more" if len(files) < settings.min_references else "leave some out"),
            "image_count",
            errors=[{"field": "images", "message": f"needs {settings.reference_count('file')}, got {len(files)}"}],
        )
    results = await asyncio.gather(*(decoder.decode(file.file) for file in files), return_exceptions=True)
    for result in results:  # after all have ended, because the caller closes the files
        if isinstance(result, BaseException) and not isinstance(result, Refused):
            raise result
    refusals = {index: result for index, result in enumerate(results) if isinstance(result, Refused)}
    if refusals:
        first = next(iter(refusals.values()))
        error = UnsupportedMedia if first.kind == "format" else Invalid
        raise _refused(files, refusals, error, f"image_{first.kind}")
    images = [result for result in results if isinstance(result, CleanImage)]
    repeated = {
        index: Refused("duplicate", same_image(describe(first, files[first].filename)))
        for index, first in duplicates(image.sha256 for image in images).items()
    }
    if repeated:
        raise _refused(files, repeated, Invalid, "identical_images")
    return images


def _refused(
    files: Sequence[UploadFile], refusals: dict[int, Refused], error: type[DomainError], code: str
) -> DomainError:
    """Return one error for all bad files."""
    sentences = [f"{describe(index, files[index].filename)} {refusal}" for index, refusal in refusals.items()]
    errors = [
        {"field": f"images[{index}]", "message": sentence, "code": refusal.kind}
        for (index, refusal), sentence in zip(refusals.items(), sentences, strict=True)
    ]
    return error(". ".join(sentences), code, errors=errors)
