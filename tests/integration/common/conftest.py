"""Fixtures of the tests of the contract on real servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sd_common import job_queue, stream_reader
from sd_common import task_log as task_log_module
from sd_common.job_queue import JobQueue
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.task_log import TaskLog


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose answer a killed server took with it is tried again after 0.5 s, instead of 5 s."""
    for module in (job_queue, stream_reader, task_log_module):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.5)


@pytest.fixture
def refusing_endpoint() -> Iterator[str]:
    """An address that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
async def task_log(nats_client: NatsClient, provisioned: NatsSettings) -> TaskLog:
    return TaskLog(nats_client)


@pytest.fixture
async def queue(nats_client: NatsClient, provisioned: NatsSettings) -> JobQueue:
    return JobQueue(nats_client)
