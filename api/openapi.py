"""Complete the OpenAPI description that FastAPI generates."""

from typing import Any

from fastapi import FastAPI

from api.domain.settings import Settings
from opad_core.reference_images import formats, reads_heic

_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def describe(app: FastAPI, settings: Settings) -> None:
    """Set the media type of errors to application/problem+json, and the photos that the settings allow."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generated()
            for methods in schema["paths"].values():
                for operation in methods.values():
                    for answer in operation["responses"].values():
                        _retype(answer)
            _count_images(schema, settings)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _retype(answer: dict[str, Any]) -> None:
    content = answer.get("content", {})
    if content.get("application/json", {}).get("schema") == _PROBLEM:
        content["application/problem+json"] = content.pop("application/json")


def _count_images(schema: dict[str, Any], settings: Settings) -> None:
    content = schema["paths"]["/v1/concepts"]["post"]["requestBody"]["content"]
    images = content["multipart/form-data"]["schema"]["properties"]["images"]
    images |= {
        "minItems": settings.min_references,
        "maxItems": settings.max_references,
        "description": f"{settings.reference_count('photo')} of one thing: {formats(heic=reads_heic(settings.heic))}, "
        + images["description"],
    }
