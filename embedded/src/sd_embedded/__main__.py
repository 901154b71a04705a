"""Run everything on this machine: `python -m sd_embedded`."""

from __future__ import annotations

import sys
import time

import uvloop

from sd_common.logs import configure_logs
from sd_common.process import stop_requested
from sd_common.settings import load_settings
from sd_embedded.app import EmbeddedApp, PortTaken
from sd_embedded.settings import EmbeddedLogSettings, EmbeddedSettings


async def run() -> None:
    """Serve until SIGTERM or SIGINT."""
    started = time.monotonic()
    app = EmbeddedApp(load_settings(EmbeddedSettings))
    stop = stop_requested()
    await app.start()
    _say(f"Ready in {time.monotonic() - started:.1f} s at {app.base_url} (API: {app.base_url}/docs). Ctrl-C stops it.")
    if link := await app.link_with_token():
        _say(f"Try visiting {link}")
    await stop.wait()
    _say("Stopping: running tasks are finished first. Ctrl-C again ends it at once.")
    await app.stop()


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the person at the terminal


def main() -> None:
    configure_logs(load_settings(EmbeddedLogSettings), "embedded")
    try:
        uvloop.run(run())
    except PortTaken as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
