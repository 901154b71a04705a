"""What `make check` says of known vulnerabilities. pip-audit runs for real; whom it asks is a stand-in of OSV."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from supply_chain.audit import Ignored, audit, read_ignored

_ROOT = Path(__file__).parents[3]
#: As OSV tells it, in part.
_ADVISORY = {
    "id": "GHSA-8q59-q68h-6hv4",
    "aliases": ["CVE-2020-14343", "PYSEC-2021-142"],
    "summary": "Improper Input Validation in PyYAML",
    "details": "A vulnerability was discovered in the PyYAML library in versions before 5.4.",
    "modified": "2024-09-16T20:57:56Z",
    "published": "2021-03-25T21:26:26Z",
    "affected": [
        {
            "package": {"name": "pyyaml", "ecosystem": "PyPI", "purl": "pkg:pypi/pyyaml"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "5.4"}]}],
        }
    ],
}


@contextmanager
def _answering(status: int, known: bytes, others: bytes) -> Iterator[str]:
    """A server that knows something of PyYAML 5.3; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_known = (asked["package"]["name"].lower(), asked["version"]) == ("pyyaml", "5.3")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(known if is_known else others)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    with _answering(200, json.dumps({"vulns": [_ADVISORY]}).encode(), b"{}") as url:
        yield url


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """A vulnerable version among others."""
    path = tmp_path / "constraints.txt"
    path.write_text("# a comment\nidna==3.20\nPyYAML==5.3\n")
    return path


def _ignored(vulnerability: str, days: int) -> Ignored:
    until = datetime.now(UTC).date() + timedelta(days)
    return Ignored(id=vulnerability, reason="it is not reached here", until=until)


def test_a_known_vulnerability_fails(osv: str, pins: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert audit(pins, [], osv, required=False) == 1
    told = capfd.readouterr().out
    assert "PYSEC-2021-142" in told
    assert "5.4" in told


def test_pins_of_which_nothing_is_known_pass(osv: str, pins: Path) -> None:
    pins.write_text("idna==3.20\n")
    assert audit(pins, [], osv, required=True) == 0


@pytest.mark.parametrize("name", ["GHSA-8q59-q68h-6hv4", "CVE-2020-14343"])
def test_what_is_ignored_passes(osv: str, pins: Path, name: str) -> None:
    assert audit(pins, [_ignored(name, days=0)], osv, required=True) == 0


def test_what_is_ignored_is_looked_at_again(osv: str, pins: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert audit(pins, [_ignored("CVE-2020-14343", days=-1)], osv, required=False) == 1
    told = capfd.readouterr().out
    assert "CVE-2020-14343" in told
    assert "it is not reached here" in told


def _assert_not_audited(pins: Path, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert audit(pins, [], url, required=False) == 0
    told = capfd.readouterr()
    assert told.out.startswith(f"NOT AUDITED: {url} ")
    assert len(told.out.splitlines()) == 1
    assert told.err == ""
    assert audit(pins, [], url, required=True) == 1


@pytest.mark.parametrize(("status", "answer"), [(200, b"{}"), (200, b"<html>"), (404, b"")])
def test_an_audit_that_asked_nobody_says_so(
    status: int, answer: bytes, pins: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where something answers in its place: a mirror that knows nothing, a login page of a network."""
    with _answering(status, answer, answer) as url:
        _assert_not_audited(pins, url, capfd)


def test_an_audit_without_a_network_says_so(pins: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    _assert_not_audited(pins, f"http://127.0.0.1:{port}/v1/query", capfd)


def test_what_this_repository_ignores_has_reasons() -> None:
    assert all(each.reason.strip() for each in read_ignored(_ROOT / "pyproject.toml"))
