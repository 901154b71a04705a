"""The span of a request.

It tells the route, and neither the path nor the query: those may hold tokens, and ids of pictures that only their owner
knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from aiohttp import hdrs, web
from opentelemetry.trace import SpanKind, StatusCode

from sd_common.tracing import span

#: Probes come all the time, and a websocket's span would be hours long.
_UNTRACED = frozenset({"/events", "/healthz", "/readyz"})


@contextmanager
def request_span(request: web.Request, route: str | None) -> Iterator[Callable[[int], None]]:
    """What happens inside is the request's span; the status of the answer is to be told to what it yields."""
    if route in _UNTRACED:
        yield _tell_nobody
        return
    method = request.method if request.method in hdrs.METH_ALL else "_OTHER"  # clients may send any word
    attributes = {"http.request.method": method, "url.scheme": request.scheme}
    if route is not None:
        attributes["http.route"] = route
    name = "HTTP" if method == "_OTHER" else method
    with span(name if route is None else f"{name} {route}", SpanKind.SERVER, attributes) as current:

        def tell(status: int) -> None:
            current.set_attribute("http.response.status_code", status)
            if task_id := structlog.contextvars.get_contextvars().get("task_id"):
                current.set_attribute("sd.task_id", task_id)
            if status >= 500:
                current.set_attribute("error.type", str(status))
                current.set_status(StatusCode.ERROR)

        yield tell


def _tell_nobody(_status: int) -> None:
    """For requests without a span."""
