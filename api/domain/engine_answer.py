"""The body of an engine's answer to `/generate`: a JSON header and the image files, byte for byte.

The first four bytes are the length of the header, big-endian. The header names the length of each file (`sizes`).
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

from pydantic import BaseModel, NonNegativeInt

MEDIA_TYPE = "application/octet-stream"


class _Header(BaseModel):
    sizes: list[NonNegativeInt]
    seeds: list[int]
    media_type: str
    timing: dict[str, float]
    cache: dict[str, str]
    warnings: list[str]


@dataclass(frozen=True)
class Generated:
    """The images of one request."""

    images: list[bytes]
    """The encoded files, in the order of the seeds."""
    seeds: list[int]
    media_type: str
    timing: dict[str, float]
    """Milliseconds of each part of the engine's work."""
    cache: dict[str, str]
    warnings: list[str]
    """Sentences about words of the prompt that the base does not know or does not reach."""

    def pack(self) -> bytes:
        header = _Header(
            sizes=[len(file) for file in self.images],
            seeds=self.seeds,
            media_type=self.media_type,
            timing=self.timing,
            cache=self.cache,
            warnings=self.warnings,
        )
        packed = header.model_dump_json().encode()
        return b"".join((len(packed).to_bytes(4, "big"), packed, *self.images))

    @classmethod
    def unpack(cls, body: bytes) -> "Generated":
        """Read what `pack` wrote. Raises ValueError if the body is cut short, too long or not such an answer."""
        begin = 4 + int.from_bytes(body[:4], "big")
        header = _Header.model_validate_json(body[4:begin])
        ends = list(accumulate(header.sizes, initial=begin))
        if ends[-1] != len(body) or len(header.seeds) != len(header.sizes):
            raise ValueError(f"{len(body)} bytes with {len(header.seeds)} seeds, but the header names {ends[-1]} bytes")
        files = [body[start:end] for start, end in pairwise(ends)]
        return cls(files, header.seeds, header.media_type, header.timing, header.cache, header.warnings)
