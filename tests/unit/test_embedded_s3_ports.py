"""The embedded S3 server's ports. weed serves gRPC 10,000 above each, and does not start where that is another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sd_embedded.s3_server import S3Server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setattr(S3Server, "_is_free", lambda _self, _port: True)
    return S3Server(tmp_path, "key", "secret")


def _grpc_ports(ports: dict[str, int]) -> set[int]:
    return {port + 10_000 for port in ports.values()}


def test_no_port_is_the_grpc_port_of_another(server: S3Server, tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    seen: dict[str, int] = {}
    for number in range(200):
        for name, port in server._choose_ports().items():
            seen[f"{name}-{number}"] = port
        file.unlink()
    assert not _grpc_ports(seen) & set(seen.values())


def test_ports_of_last_time_that_weed_refuses_are_chosen_anew(server: S3Server, tmp_path: Path) -> None:
    refused = {"master": 15_000, "volume": 15_001, "filer": 15_002, "s3": 15_003, "admin": 25_000}
    (tmp_path / "ports.json").write_text(json.dumps(refused))
    ports = server._choose_ports()
    assert not _grpc_ports(ports) & set(ports.values())
    assert server._choose_ports() == ports, "they stay"
