"""Fixtures of the tests of the contract on real servers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sd_common import job_queue, task_log


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose answer a killed server took with it is tried again after 0.5 s, instead of 5 s."""
    for module in (job_queue, task_log):
        monkeypatch.setattr(module, "REQUEST_TIMEOUT_S", 0.5)


@pytest.fixture
def refusing_endpoint() -> Iterator[str]:
    """An address that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
