"""What operators and developers ask of the gateway itself: health, documents."""

from __future__ import annotations

import json
from pathlib import Path

from aiohttp import web
from pydantic import BaseModel, TypeAdapter

from sd_gateway.http.operations import Answer, Operation
from sd_gateway.parts import PARTS

STATIC = Path(__file__).parent.parent / "static"
OPENAPI_DOCUMENT = web.AppKey("openapi_document", bytes)

#: Swagger UI sets styles and draws icons from data URLs; all scripts are files of ours.
_DOCS_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'"


class Health(BaseModel):
    """Whether the process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests can be served, and which part is missing."""

    ready: bool
    parts: dict[str, str]


async def healthz(request: web.Request) -> web.Response:
    return web.json_response(Health().model_dump())


async def readyz(request: web.Request) -> web.Response:
    parts = await request.app[PARTS].readiness()
    ready = all(missing is None for missing in parts.values())
    told = Readiness(ready=ready, parts={name: missing or "ready" for name, missing in parts.items()})
    return web.json_response(told.model_dump(), status=200 if ready else 503, headers={"Cache-Control": "no-store"})


async def openapi_json(request: web.Request) -> web.Response:
    return web.Response(body=request.app[OPENAPI_DOCUMENT], content_type="application/json")


async def docs(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / "docs.html", headers={"Content-Security-Policy": _DOCS_POLICY})


def add_documents(app: web.Application, document: dict[str, object]) -> None:
    """Serve the OpenAPI document, and what `/docs` shows it with."""
    app[OPENAPI_DOCUMENT] = json.dumps(document).encode()
    app.router.add_static("/static", STATIC)


OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        healthz,
        tag="service",
        summary="Whether the process lives",
        answers={200: Answer("It does", TypeAdapter(Health))},
        token=None,
    ),
    Operation(
        "GET",
        "/readyz",
        readyz,
        tag="service",
        summary="Whether requests can be served",
        answers={
            200: Answer("They can", TypeAdapter(Readiness)),
            503: Answer("A part is missing", TypeAdapter(Readiness)),
        },
        token=None,
    ),
    Operation(
        "GET",
        "/openapi.json",
        openapi_json,
        tag="service",
        summary="This document",
        answers={200: Answer("OpenAPI 3.1")},
        token=None,
    ),
    Operation(
        "GET",
        "/docs",
        docs,
        tag="service",
        summary="This document, to read and try",
        answers={200: Answer("A page", content_types=("text/html",))},
        token=None,
    ),
)
