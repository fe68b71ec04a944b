"""Request and response bodies of `POST /generate`."""

import secrets
from typing import Self
from uuid import UUID

from pydantic import Base64Bytes, ConfigDict, Field, model_validator

from api.domain.settings import DecoderName
from api.schemas import MAX_SEED, MAX_VERSION, ImageFormat, In, Name, Out, Prompt, Seed


class GenerateIn(In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"concept": "my mug", "prompt": "a photo of <concept> on a beach", "seed": 7},
                {"concept": "my mug", "prompt": "a photo of <concept> on a beach", "count": 4, "untouched": True},
            ]
        }
    )

    concept_id: UUID | None = None
    concept: Name | None = Field(None, description="the concept's id or name, instead of `concept_id`")
    prompt: Prompt
    seed: Seed = Field(default_factory=lambda: secrets.randbelow(2**32))
    count: int = Field(1, ge=1, le=8, description="number of images, with the seeds seed, seed + 1, …")
    untouched: bool = Field(False, description="use the base without the concept: <concept> becomes the class noun")
    version: int | None = Field(
        None, ge=1, le=MAX_VERSION, description="version of the concept; the newest trained one if missing"
    )
    format: ImageFormat = Field("png", description="format of the images in a JSON answer; otherwise Accept decides")
    decoder: DecoderName | None = Field(
        None,
        description="`fast` takes less time and loses fine detail; 422 if the base has no fast decoder, see "
        "`GET /v1/base`; the installation's default if missing",
    )
    store: bool = Field(False, description="store the images: `GET /v1/images` lists them")

    @model_validator(mode="after")
    def _one_concept(self) -> Self:
        if (self.concept_id is None) == (self.concept is None):
            raise ValueError("name one concept: either `concept_id` or `concept`")
        if self.untouched and self.version is not None:
            raise ValueError("the untouched base has no versions: leave out `version` or `untouched`")
        if self.seed + self.count - 1 > MAX_SEED:
            raise ValueError(f"seed {self.seed} leaves no room for {self.count} seeds; use a smaller one")
        return self


class KeepIn(In):
    receipt: str = Field(max_length=20_000, description="`receipt` of the image in the answer of `POST /v1/generate`")
    data: Base64Bytes = Field(description="`data` of the same image: the file in base64")


class ImageOut(Out):
    id: UUID | None = Field(description="id of the stored image; null without `store`")
    receipt: str | None = Field(
        description="with `data`, it stores this image within a day (`POST /v1/images`); null if it is stored already"
    )
    seed: int
    media_type: str
    data: str = Field(description="the file in base64")
    check_score: float | None = Field(description="score of the image check, 0 to 1; null if it is off")
    flagged: bool = Field(description="whether the score reaches the installation's limit")


class GenerateOut(Out):
    concept_id: UUID
    version: int | None = Field(description="version of the concept; null for the untouched base")
    prompt: str
    decoder: DecoderName
    images: list[ImageOut]
    warnings: list[str]
    timing: dict[str, float]
    cache: dict[str, str]
