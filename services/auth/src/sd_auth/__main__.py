"""`python -m sd_auth`: the auth service as a process of its own."""

from __future__ import annotations

import asyncio
import signal

import structlog

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.logs import configure_logs
from sd_common.settings import LogSettings, NatsSettings, load_settings

log = structlog.get_logger(__name__)


async def run(settings: AuthSettings, nats_settings: NatsSettings) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process without waiting."""
    loop = asyncio.get_running_loop()
    this_task = asyncio.current_task()
    assert this_task is not None
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        for signum in signals:
            loop.remove_signal_handler(signum)
        this_task.cancel()

    for signum in signals:
        loop.add_signal_handler(signum, stop)
    app = AuthApp(settings, nats_settings)
    try:
        await app.start()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.info("auth_stopping")
    finally:
        await app.stop()


def main() -> None:
    """Read the settings from the environment and serve."""
    settings = load_settings(AuthSettings)
    nats_settings = load_settings(NatsSettings)
    configure_logs(load_settings(LogSettings), "auth")
    asyncio.run(run(settings, nats_settings))


if __name__ == "__main__":
    main()
