"""Run a worker: `python -m sd_worker`, or `python -m sd_worker --models shapes,owner/name` to dedicate it to these."""

from __future__ import annotations

import argparse
import os
import sys

import uvloop

from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_settings import NatsSettings
from sd_common.process import run_until_stopped
from sd_common.s3_client import MinioSettings
from sd_common.settings import loading_settings
from sd_common.trace_export import TraceSettings, exporting_traces
from sd_worker.app import WorkerApp
from sd_worker.engine.errors import DeviceUnavailable
from sd_worker.errors import EngineFailed
from sd_worker.settings import WorkerSettings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sd_worker", description="A worker. Its settings are variables.")
    parser.add_argument("--models", help="take jobs of these models alone; names, separated by commas (else MODELS)")
    arguments = parser.parse_args()
    given = {} if arguments.models is None else {"models": arguments.models}
    with loading_settings() as loader:
        settings, nats_settings = loader.load(WorkerSettings, **given), loader.load(NatsSettings)
        minio_settings, trace_settings = loader.load(MinioSettings), loader.load(TraceSettings)
        log_settings = loader.load(LogSettings)
    configure_logs(log_settings, "worker")
    let_waiting_threads_sleep()
    app = WorkerApp(settings, nats_settings, minio_settings)
    try:
        with exporting_traces(trace_settings, "worker"):
            uvloop.run(run_until_stopped(app, app.raise_once_failed))
    except EngineFailed as error:
        sys.exit(str(error))  # not 0: whatever supervises it starts it again
    except (DeviceUnavailable, OSError) as error:
        sys.exit(f"The worker cannot start: {error}")


def let_waiting_threads_sleep() -> None:
    """Unless it is set, have threads that compute together (`engine.cores`) look for each other 5,000 times before they
    sleep, not 300,000 as GNU's OpenMP would, which reads this when torch is imported. Other workers may compute on the
    same cores: with 300,000 times, some milliseconds, two made a sixth of the pictures."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


if __name__ == "__main__":
    main()
