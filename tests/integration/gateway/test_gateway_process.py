"""`python -m sd_gateway`, as an operator runs it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.stack import Service
from support.waiting import PATIENCE_S

#: It waits for its parts in the background: none is there.
_ENV = {"NATS_URL": "nats://127.0.0.1:1", "MINIO_ACCESS_KEY": "nobody", "MINIO_SECRET_KEY": "no-secret"}


@pytest.mark.parametrize(
    ("name", "free", "told"),
    [
        ("PORT", "HEALTH_PORT", "cannot listen on {address} (HOST, PORT)"),
        ("HEALTH_PORT", "PORT", "cannot serve health on {address} (HEALTH_HOST, HEALTH_PORT)"),
    ],
)
def test_a_port_that_is_taken_is_told_by_its_own_settings_alone(
    tmp_path: Path, name: str, free: str, told: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = Service("sd_gateway", tmp_path, {**_ENV, name: str(port), free: "0"})
        assert service.process.wait(PATIENCE_S) == 1
    [sentence] = [line for line in service.log.splitlines() if line.startswith("The gateway cannot start")]
    assert told.format(address=f"127.0.0.1:{port}") in sentence
    assert sentence.count("PORT)") == 1
    assert "Traceback" not in service.log
