"""Run a worker: `python -m sd_worker`."""

from __future__ import annotations

import uvloop

from sd_common.logs import configure_logs
from sd_common.process import stop_requested
from sd_common.settings import LogSettings, MinioSettings, NatsSettings, load_settings
from sd_worker.app import WorkerApp
from sd_worker.settings import WorkerSettings


async def run() -> None:
    """Work until SIGTERM or SIGINT, then drain."""
    app = WorkerApp(load_settings(WorkerSettings), load_settings(NatsSettings), load_settings(MinioSettings))
    stop = stop_requested()
    await app.start()
    await stop.wait()
    await app.stop()


def main() -> None:
    configure_logs(load_settings(LogSettings), "worker")
    uvloop.run(run())


if __name__ == "__main__":
    main()
