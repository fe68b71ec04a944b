"""The served description of the API, where FastAPI's own says less than is true."""

from typing import Any

from fastapi import FastAPI

_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def describe(app: FastAPI) -> None:
    """Refusals are application/problem+json, not application/json."""
    generated = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generated()
            for methods in schema["paths"].values():
                for operation in methods.values():
                    for answer in operation["responses"].values():
                        _retype(answer)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _retype(answer: dict[str, Any]) -> None:
    content = answer.get("content", {})
    if content.get("application/json", {}).get("schema") == _PROBLEM:
        content["application/problem+json"] = content.pop("application/json")
