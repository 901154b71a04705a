"""Run a service until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)


class App(Protocol):
    """A service, or all of them."""

    async def start(self) -> None:
        """Return when it works. May be cancelled."""

    async def stop(self) -> None:
        """Stop in order. Does nothing where nothing runs."""


async def run_until_stopped(app: App, when_started: Callable[[], Awaitable[None]] | None = None) -> None:
    """Run `app` until SIGTERM or SIGINT; a second one ends the process at once. `when_started` is called once it works,
    and may last: what it raises stops `app` too, and is raised."""
    requested = asyncio.create_task(_stop_requested().wait())
    running = asyncio.create_task(_run(app, when_started))
    await asyncio.wait({requested, running}, return_when=asyncio.FIRST_COMPLETED)
    if requested.done():
        log.info("stopping")
    requested.cancel()
    running.cancel()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running  # raises what `app` failed with
    finally:
        await app.stop()


async def _run(app: App, when_started: Callable[[], Awaitable[None]] | None) -> None:
    await app.start()
    if when_started is not None:
        await when_started()
    await asyncio.Event().wait()


def _stop_requested() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    requested = asyncio.Event()

    def request_stop(number: signal.Signals) -> None:
        if requested.is_set():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        requested.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request_stop, number)
    return requested
