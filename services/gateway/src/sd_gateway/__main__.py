"""Run the gateway: `python -m sd_gateway`."""

from __future__ import annotations

import gc
import sys

import uvloop

from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_settings import NatsSettings
from sd_common.process import run_until_stopped
from sd_common.s3_client import MinioSettings
from sd_common.settings import loading_settings
from sd_common.trace_export import TraceSettings, exporting_traces
from sd_gateway.app import GatewayApp
from sd_gateway.settings import GatewaySettings

#: Of `gc.set_threshold`. Everything stands still for 0.3 s while the objects of 5,000 websockets are gone through: with
#: the last of Python's own (700, 10, 10), whenever another thousand had connected.
_GC_THRESHOLDS = (700, 10, 100)


async def run(settings: GatewaySettings, nats_settings: NatsSettings, minio_settings: MinioSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    app = GatewayApp(settings, nats_settings, minio_settings)

    async def print_link() -> None:
        await app.ready()
        if link := await app.link_with_token():
            print(f"Try visiting {link}", flush=True)  # noqa: T201 - for the person at the terminal

    await run_until_stopped(app, print_link if settings.print_link_with_token else None)


def main() -> None:
    with loading_settings() as loader:
        settings, nats_settings = loader.load(GatewaySettings), loader.load(NatsSettings)
        minio_settings, trace_settings = loader.load(MinioSettings), loader.load(TraceSettings)
        log_settings = loader.load(LogSettings)
    configure_logs(log_settings, "gateway")
    gc.freeze()  # what was imported stays
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        with exporting_traces(trace_settings, "gateway"):
            uvloop.run(run(settings, nats_settings, minio_settings))
    except OSError as error:
        sys.exit(f"The gateway cannot start: {error}")


if __name__ == "__main__":
    main()
