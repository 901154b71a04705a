"""Being told to stop."""

from __future__ import annotations

import asyncio
import signal


def stop_requested() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    requested = asyncio.Event()

    def request_stop(number: int) -> None:
        if requested.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        requested.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request_stop, number)
    return requested
