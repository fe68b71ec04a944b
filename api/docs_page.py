"""The API reference at /docs, rendered from the OpenAPI document. It loads nothing from another host."""

import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from api.dashboard.page import templates
from api.domain.settings import Settings
from api.loopback import curl_for
from api.public_address import public_address


def install_docs_page(app: FastAPI, settings: Settings) -> None:
    async def reference(request: Request) -> Response:
        document = app.openapi()
        context = {
            "info": document["info"],
            "routes": _routes(document, f"{public_address(request, settings)}/"),
            "photo_count": settings.reference_count("photo"),
        }
        return templates.TemplateResponse(request, "reference.html", context)

    app.add_api_route("/docs", reference, methods=["GET"], include_in_schema=False)


def _routes(document: dict[str, Any], address: str) -> list[dict[str, Any]]:
    schemas = document["components"]["schemas"]
    routes = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            media_type = next(iter(content), None)
            body: dict[str, Any] = content.get(media_type, {})
            schema = _resolved(body.get("schema", {}), schemas)
            routes.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "anchor": operation["operationId"],
                    "description": operation.get("description") or operation.get("summary"),
                    "parameters": [_parameter(p, schemas) for p in operation.get("parameters", [])],
                    "fields": _fields(schema, schemas),
                    "media_type": media_type,
                    "answers": [(code, answer["description"]) for code, answer in operation["responses"].items()],
                    "answer_fields": _answer_fields(operation, schemas),
                    "curl": _curl(method.upper(), path, media_type, body, schema, address, _accept(operation)),
                }
            )
    return routes


def _resolved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    return found


def _parameter(parameter: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": parameter["name"],
        "type": _type(parameter["schema"], schemas),
        "required": parameter.get("required", False),
        "description": parameter.get("description", ""),
    }


def _fields(schema: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": _type(field, schemas),
            "required": name in required,
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _answer_fields(operation: dict[str, Any], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    for code, answer in operation["responses"].items():
        if code.startswith("2"):
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            return _fields(_resolved(schema, schemas), schemas)
    return []


def _type(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_type(option, schemas) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), schemas)}"
    return str(schema.get("format") or schema.get("type") or "any")


def _accept(operation: dict[str, Any]) -> list[str]:
    """Return the curl options that ask for an image, where a route can return one."""
    returns_image = "image/png" in operation["responses"].get("200", {}).get("content", {})
    return ["-H 'Accept: image/png' -o image.png"] if returns_image else []


def _curl(
    method: str,
    path: str,
    media_type: str | None,
    body: dict[str, Any],
    schema: dict[str, Any],
    address: str,
    accept: list[str],
) -> str:
    lines = [f"{curl_for(address)} {address.rstrip('/')}{path}"]
    if path.startswith("/v1"):
        lines.append('-H "Authorization: Bearer $OPAD_KEY"')
    if media_type == "multipart/form-data":
        for name, value in body.get("example", {}).items():
            values = [f"@{file}" for file in value] if isinstance(value, list) else [value]
            lines += [f"-F '{name}={one}'" for one in values]
    elif media_type == "application/json":
        example = (schema.get("examples") or [{}])[0]
        lines += [*accept, f"--json '{json.dumps(example)}'"]
    elif method != "GET":
        lines.append(f"-X {method}")
    return " \\\n  ".join(lines)
