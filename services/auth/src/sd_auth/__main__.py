"""Run the auth service: `python -m sd_auth`."""

from __future__ import annotations

import asyncio
import sys

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_settings import NatsSettings
from sd_common.process import run_until_stopped
from sd_common.settings import loading_settings
from sd_common.trace_export import TraceSettings, exporting_traces


def main() -> None:
    with loading_settings() as loader:
        settings, nats_settings = loader.load(AuthSettings), loader.load(NatsSettings)
        log_settings, trace_settings = loader.load(LogSettings), loader.load(TraceSettings)
    configure_logs(log_settings, "auth")
    app = AuthApp(settings, nats_settings)
    try:
        with exporting_traces(trace_settings, "auth"):
            asyncio.run(run_until_stopped(app))
    except OSError as error:
        sys.exit(f"The auth service cannot start: {error}")


if __name__ == "__main__":
    main()
