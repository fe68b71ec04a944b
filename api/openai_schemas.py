"""Request and response bodies of OpenAI's image API."""

import secrets
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.domain.text_rules import as_read
from api.schemas import ImageFormat, In, Out, Prompt, read_by

_IGNORED = "accepted for compatibility and ignored"


class ImagesIn(In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "concept:my mug", "prompt": "a photo of <concept> on a beach", "n": 2}]
        }
    )

    model: Annotated[str, read_by(as_read)] = Field(
        max_length=88, description="`concept:` and the name of a concept; `GET /v1/models` lists them"
    )
    prompt: Prompt
    n: int = Field(1, ge=1, le=8)
    size: str | None = Field(
        None, max_length=20, description="the base has one size: name that size, `auto` or nothing"
    )
    response_format: Literal["b64_json", "url"] = Field(
        "b64_json",
        description="`url` stores the images (`GET /v1/images`) and returns links that are valid for an hour",
    )
    output_format: ImageFormat = "png"
    seed: int = Field(
        default_factory=lambda: secrets.randbelow(2**32),
        ge=0,
        lt=2**32,
        description="not in OpenAI's API; random if missing",
    )
    stream: Literal[False] | None = Field(None, description="not supported: an image takes one step")
    user: str | None = Field(None, description=_IGNORED)
    quality: str | None = Field(None, description=_IGNORED)
    style: str | None = Field(None, description=_IGNORED)
    background: str | None = Field(None, description=_IGNORED)
    moderation: str | None = Field(None, description=_IGNORED)
    output_compression: int | None = Field(None, description=_IGNORED)


class OneImage(Out):
    b64_json: str | None
    url: str | None
    seed: int


class ImagesOut(Out):
    created: int = Field(description="seconds since 1970")
    data: list[OneImage]
    output_format: ImageFormat


class ModelOut(Out):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when the newest version was trained, in seconds since 1970")
    owned_by: str


class ModelList(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"id": "concept:my mug", "object": "model", "created": 1795381200, "owned_by": "admin"}],
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[ModelOut]
