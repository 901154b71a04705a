"""Answers in JSON."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web


def json_answer(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """One that no cache keeps: it is somebody's own, or of this moment."""
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
