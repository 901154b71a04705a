"""NATS over TLS: by setting, and then nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from sd_common.nats_client import NatsClient, connect
from sd_common.nats_settings import NatsSettings
from support.certificates import make_certificate
from support.servers import NatsServer, nats_server

_HOST = "localhost"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path, _HOST)


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[NatsServer]:
    with_key, _ = certificate
    with nats_server(("--tls", "--tlscert", str(with_key), "--tlskey", str(with_key))) as server:
        yield server


def _settings(server: NatsServer, ca: Path | None) -> NatsSettings:
    url = server.url.replace("127.0.0.1", _HOST)
    return NatsSettings(_env_file=None, nats_url=SecretStr(url), nats_tls_ca=ca)


async def _refusal(settings: NatsSettings) -> str:
    """Why there is no connection: it is tried for ever."""
    told: asyncio.Queue[str] = asyncio.Queue()
    client = NatsClient(settings, "test")

    async def tell(error: Exception) -> None:
        if client._transport is not None:  # nats-py leaves it, where it is told to stop before it goes on
            client._transport.close()  # type: ignore[no-untyped-call]
        told.put_nowait(str(error))

    client._log_error = tell  # type: ignore[method-assign]
    opening = asyncio.create_task(client.open())
    try:
        async with asyncio.timeout(10):
            return await told.get()
    finally:
        opening.cancel()
        await asyncio.wait([opening])
        await client.shut()


async def test_a_client_that_trusts_the_authority_speaks_tls(
    tls_server: NatsServer, certificate: tuple[Path, Path]
) -> None:
    client = await connect(_settings(tls_server, certificate[1]), "test")
    await client.flush()
    assert client._server_info["tls_required"]
    await client.shut()
    assert client._transport is not None
    await client._transport.wait_closed()  # type: ignore[no-untyped-call]  # TLS says goodbye


async def test_a_server_of_another_authority_is_refused(tls_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    _, other = make_certificate(tmp_path / "other", _HOST)
    assert "certificate verify failed" in await _refusal(_settings(tls_server, other))


async def test_a_server_whose_url_says_tls_is_asked_for_it(
    tls_server: NatsServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the authorities that the system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    url = tls_server.url.replace("127.0.0.1", _HOST).replace("nats://", "tls://")
    client = await connect(NatsSettings(_env_file=None, nats_url=SecretStr(url)), "test")
    await client.flush()
    await client.shut()
    assert client._transport is not None
    await client._transport.wait_closed()  # type: ignore[no-untyped-call]  # TLS says goodbye


@pytest.mark.parametrize(
    ("urls", "has_authority"),
    [("nats://{}", True), ("tls://{}", False), ("nats://{0},tls://{0}", False)],
    ids=["authority", "url", "url of another server"],
)
async def test_a_server_without_tls_is_told_no_password(
    urls: str, has_authority: bool, certificate: tuple[Path, Path]
) -> None:
    """As somebody in between would be, who takes the server's offer of TLS away."""
    heard = b""

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(
            b'INFO {"server_id":"x","version":"2.15.0","headers":true,"max_payload":1048576,"auth_required":true}\r\n'
        )
        heard += await reader.read()
        writer.close()

    async with await asyncio.start_server(pose, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        settings = NatsSettings(
            _env_file=None,
            nats_url=SecretStr(urls.format(f"127.0.0.1:{port}")),
            nats_user="gateway",
            nats_password=SecretStr("hunter2"),
            nats_tls_ca=certificate[1] if has_authority else None,
        )
        assert "offers no TLS, which NATS_TLS_CA or tls:// asks for" in await _refusal(settings)
    assert heard == b""
