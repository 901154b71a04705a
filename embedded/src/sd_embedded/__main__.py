"""Run everything on this machine: `python -m sd_embedded`."""

from __future__ import annotations

import sys
import time

import uvloop

from sd_common.errors import Unavailable
from sd_common.logs import configure_logs
from sd_common.process import run_until_stopped
from sd_common.trace_export import exporting_traces
from sd_embedded.app import CannotStart, EmbeddedApp
from sd_embedded.child_process import ProcessNotReady
from sd_embedded.settings import AllSettings, load_all_settings
from sd_worker.engine.errors import DeviceUnavailable
from sd_worker.errors import EngineFailed


async def run(settings: AllSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    started = time.monotonic()
    app = EmbeddedApp(settings)

    async def when_started() -> None:
        took_s = time.monotonic() - started
        _say(f"Ready in {took_s:.1f} s at {app.base_url} (API: {app.base_url}/docs). Ctrl-C stops it.")
        if link := await app.link_with_token():
            _say(f"Try visiting {link}")
        await app.raise_once_failed()

    await run_until_stopped(app, when_started)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - for the person at the terminal


def main() -> None:
    settings = load_all_settings()
    configure_logs(settings.logs, "embedded")
    try:
        with exporting_traces(settings.traces, "embedded"):
            uvloop.run(run(settings))
    except (CannotStart, DeviceUnavailable, EngineFailed, ProcessNotReady, Unavailable, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
