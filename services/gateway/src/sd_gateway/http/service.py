"""What operators and developers ask of the gateway itself: health, documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from aiohttp import hdrs, web
from pydantic import BaseModel, TypeAdapter

from sd_gateway.http.answers import json_answer
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.sending import send
from sd_gateway.parts import PARTS

STATIC = Path(__file__).parent.parent / "static"
_STATIC_FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
_OPENAPI_DOCUMENT = web.AppKey("openapi_document", bytes)


#: The port of operators tells why: this one is anybody's.
_AWAY = "unavailable"


class Health(BaseModel):
    """Whether something works, and which part is missing where it does not."""

    status: Literal["ok", "unavailable"] = "ok"
    missing: dict[str, str] | None = None


async def healthz(request: web.Request) -> web.Response:
    return _health_response(Health())


async def readyz(request: web.Request) -> web.Response:
    checked = await request.app[PARTS].readiness.check()
    missing = {name: _AWAY for name, reason in checked.items() if reason is not None}
    return _health_response(Health(status="unavailable", missing=missing) if missing else Health())


def _health_response(health: Health) -> web.Response:
    body = health.model_dump_json(exclude_none=True).encode()
    return json_answer(body, status=503 if health.missing else 200)


async def openapi_json(request: web.Request) -> web.StreamResponse:
    # Its bytes are there anyway, the same ones for all who ask: they count for nobody.
    document = web.Response(body=request.app[_OPENAPI_DOCUMENT], content_type="application/json")
    return await send(request, document)


async def home(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={hdrs.LOCATION: "docs"})


async def docs(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_STATIC_FILES["docs.html"])


def add_documents(app: web.Application, document: dict[str, object]) -> None:
    """Serve the OpenAPI document, and what `/docs` shows it with."""
    app[_OPENAPI_DOCUMENT] = json.dumps(document).encode()
    app.router.add_get("/static/{file:.+}", _static_file)


async def _static_file(request: web.Request) -> web.FileResponse:
    # Not aiohttp's own: it asks the file system for whatever the path says, and answers what is no file without a
    # problem, or fails.
    try:
        return web.FileResponse(_STATIC_FILES[request.match_info["file"]])
    except KeyError:
        raise web.HTTPNotFound from None


OPERATIONS = (
    Operation(
        "GET",
        "/healthz",
        healthz,
        tag="service",
        needs_nats=False,
        summary="Whether the process lives",
        answers={200: Answer("It does", TypeAdapter(Health))},
        token=None,
    ),
    Operation(
        "GET",
        "/readyz",
        readyz,
        tag="service",
        needs_nats=False,
        summary="Whether requests can be served",
        answers={
            200: Answer("They can", TypeAdapter(Health)),
            503: Answer("A part is missing", TypeAdapter(Health)),
        },
        token=None,
    ),
    Operation(
        "GET",
        "/openapi.json",
        openapi_json,
        tag="service",
        needs_nats=False,
        summary="This document",
        answers={200: Answer("OpenAPI 3.1")},
        token=None,
    ),
    Operation(
        "GET",
        "/",
        home,
        tag="service",
        needs_nats=False,
        summary="Where to begin",
        description="For whoever opens the address of the service in a browser.",
        answers={302: Answer("This document", content_types=(), headers={"Location": "`docs`, from here"})},
        token=None,
    ),
    Operation(
        "GET",
        "/docs",
        docs,
        tag="service",
        needs_nats=False,
        summary="This document, to read and try",
        answers={200: Answer("A page", content_types=("text/html",))},
        token=None,
    ),
)
