"""Request and response bodies of OpenAI's image API."""

import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from api.concept_schemas import ConceptProblem
from api.domain.text_rules import as_read
from api.schemas import ImageFormat, In, Out, Prompt, read_by, seed_or_random

_IGNORED = "accepted for compatibility and ignored"


def _named(model: object) -> object:
    if model is None:
        raise ValueError("is null; name a concept as `concept:<its name>`, GET /v1/models lists them")
    return model


def _not_in_parts(value: int | None) -> int | None:
    if value:
        raise ValueError("is not supported, because an image takes one step: there is nothing to show before it")
    return value


class ImagesIn(In):
    """Null stands for the default wherever OpenAI's types allow it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "concept:my mug", "prompt": "a photo of <concept> on a beach", "n": 2}]
        }
    )

    model: Annotated[str, read_by(as_read), BeforeValidator(_named)] = Field(
        max_length=88, description="`concept:` and the name of a concept; `GET /v1/models` lists them"
    )
    prompt: Prompt
    n: int | None = Field(1, ge=1, le=8)
    size: str | None = Field(
        None, max_length=20, description="the base has one size; another one gets a warning in `X-Warnings`"
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        "b64_json",
        description="`url` stores the images (`GET /v1/images`) and returns links that are valid for an hour",
    )
    output_format: ImageFormat | None = "png"
    seed: Annotated[int, BeforeValidator(seed_or_random)] = Field(
        default_factory=lambda: secrets.randbelow(2**32),
        ge=0,
        lt=2**32,
        description="not in OpenAI's API; random if missing",
    )
    stream: Annotated[bool | None, AfterValidator(_not_in_parts)] = Field(None, description="only false")
    partial_images: Annotated[int | None, AfterValidator(_not_in_parts)] = Field(None, description="only 0")
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
    problem: ConceptProblem | None = Field(
        None, description="not in OpenAI's API; null unless the base was replaced since the training"
    )


class ModelList(Out):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": "concept:my mug",
                            "object": "model",
                            "created": 1795381200,
                            "owned_by": "admin",
                            "problem": None,
                        }
                    ],
                }
            ]
        }
    )

    object: Literal["list"] = "list"
    data: list[ModelOut]
