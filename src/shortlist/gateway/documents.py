"""The OpenAPI document: what the handlers read by hand, described from the same types that they read it with."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shortlist.events.schema import json_schema
from shortlist.gateway.recommend import Ask
from shortlist.gateway.settings import MAX_BODY, MAX_EVENTS

_ABOUT = f"""Recommendations and events over HTTP. Keys are shown as `Authorization: Bearer KEY`; their roles are read,
track and admin. Bodies are at most {MAX_BODY // 1024} KiB. A refusal is `{{"error": {{"message": …, "field": …}}}}`."""
_REFUSALS = {
    "400": "a field is wrong: the message names it, its value and what is allowed",
    "401": "no key, or an unknown one",
    "403": "a key of another role",
    "429": "too many requests",
    "503": "what is needed is away; try again",
}
_ITEM = {"type": "object", "properties": {"id": {"type": "string"}, "score": {"type": "number"}}}
_ITEM["properties"] |= {"propensity": {"type": "number"}}  # type: ignore[operator]
_SLATE = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": _ITEM, "description": "best first"},
        "status": {"type": "string", "enum": ["full", "no_rank", "no_filter", "fallback", "stale_profile"]},
        "version": {"type": "string", "description": "of the served model"},
        "request_id": {"type": "string", "description": "as in the server's logs"},
        "trace": {"type": "object", "description": "the explanation, where asked for"},
    },
}
_TAKEN = {
    "type": "object",
    "properties": {
        "accepted": {"type": "integer", "description": "events that the log has for good"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer", "description": "place in the list sent"},
                    "field": {"type": "string"},
                    "value": {"type": "string"},
                    "allowed": {"type": "string"},
                },
            },
        },
    },
}


def describe(app: FastAPI) -> None:
    """Have `app` answer /openapi.json with all that callers need."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(_document(app))
        return made

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=version("shortlist"), description=_ABOUT, routes=app.routes)
    _, asked = msgspec.json.schema_components([Ask], ref_template="#/components/schemas/{name}")
    event = {name: value for name, value in json_schema().items() if name != "$schema"}
    batch = {
        "type": "object",
        "required": ["events"],
        "properties": {
            "events": {"type": "array", "items": _reference("Event"), "minItems": 1, "maxItems": MAX_EVENTS},
            "key": {"type": "string", "description": "an API key, for pages that cannot set headers as they close"},
        },
    }
    document["components"] = {
        "schemas": {**asked, "Event": event, "Events": batch, "Slate": _SLATE, "Taken": _TAKEN},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    paths = document["paths"]
    _fill(paths["/v1/recommend"]["post"], _reference("Ask"), _reference("Slate"))
    _fill(paths["/v1/events"]["post"], {"oneOf": [_reference("Event"), _reference("Events")]}, _reference("Taken"))
    for path, methods in paths.items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if path != "/healthz":
                operation["security"] = [{"key": []}]
                operation["responses"] |= {code: {"description": text} for code, text in _REFUSALS.items()}
    return document


def _fill(operation: dict[str, Any], body: dict[str, Any], answered: dict[str, Any]) -> None:
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    operation["responses"]["200"] = {
        "description": "answered",
        "content": {"application/json": {"schema": answered}},
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
