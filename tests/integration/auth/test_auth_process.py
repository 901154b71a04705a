"""`python -m sd_auth`, as an operator runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sd_common.auth_messages import PUBLIC_TOKEN, AccessToken
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.streams import USERS_BUCKET
from support.auth_requests import PASSWORD, SECRET_KEY, Refused, ask, log_in, sign_up
from support.servers import NatsServer, nats_env, nats_settings_of

_DEADLINE_S = 30.0


@contextlib.asynccontextmanager
async def _auth_process(directory: Path, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "sd_auth"), cwd=directory, env=env, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _line(process: asyncio.subprocess.Process, event: str) -> dict[str, Any]:
    """The next log line of this event."""
    assert process.stderr is not None
    seen = []
    async with asyncio.timeout(_DEADLINE_S):
        while text := await process.stderr.readline():
            line: dict[str, Any] = json.loads(text)
            seen.append(line)
            if line["event"] == event:
                return line
    raise AssertionError(f"no '{event}' in {seen}")


def _settings(server: NatsServer) -> dict[str, str]:
    """What it needs, as variables."""
    return {**nats_env(nats_settings_of(server, "auth")), "SECRET_KEY": SECRET_KEY}


async def test_it_serves_until_sigterm_and_logs_one_line_per_request(
    provisioned: NatsSettings, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    env = {**_settings(nats_server), "ENABLE_SIGNUP": "yes", "HEALTH_PORT": "0"}
    async with _auth_process(tmp_path, **env, ENABLE_PUBLIC_ACCESS="on") as process:
        assert (await _line(process, "auth_started"))["health_port"] > 0
        await sign_up(nats_client, "alice")
        with pytest.raises(Refused):
            await log_in(nats_client, "alice", "the wrong password")
        token = await log_in(nats_client, "alice")
        await ask(nats_client, PUBLIC_TOKEN, AccessToken)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(_DEADLINE_S):
            _, rest = await process.communicate()
        assert process.returncode == 0
    text = rest.decode()
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "auth_request"]
    assert [(each["operation"], each["user"], each["outcome"], each["code"]) for each in requests] == [
        ("sign_up", "alice", "ok", None),
        ("log_in", "alice", "refused", "401"),
        ("log_in", "alice", "ok", None),
        ("public_token", "all", "ok", None),
    ]
    assert all(each["ms"] >= 0 and each["service"] == "auth" for each in requests)
    assert "stopping" in [line["event"] for line in lines]
    for secret in (PASSWORD, "the wrong password", token.access_token, SECRET_KEY):
        assert secret not in text


async def test_a_record_that_cannot_be_read_is_an_error_without_its_content(
    provisioned: NatsSettings, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    bucket = await nats_client.jetstream().key_value(USERS_BUCKET)
    await bucket.put("alice", b'{"username": "alice", "password_hash": ["$argon2id$"]}')
    env = {**_settings(nats_server), "HEALTH_PORT": "off"}
    async with _auth_process(tmp_path, **env) as process:
        await _line(process, "auth_started")
        with pytest.raises(Refused) as refused:
            await log_in(nats_client, "alice")
        failed = await _line(process, "auth_request_failed")
        assert (await _line(process, "auth_request"))["outcome"] == "failed"
    assert refused.value.code == "500"
    assert "the operator finds the cause in its log" in refused.value.sentence
    assert "password_hash" in failed["exception"]  # which field
    assert "$argon2id$" not in failed["exception"]
    assert PASSWORD not in failed["exception"]


async def test_it_stops_while_it_waits_for_nats(nats_server: NatsServer, tmp_path: Path) -> None:
    nats_server.terminate()
    env = {**_settings(nats_server), "HEALTH_PORT": "off"}
    async with _auth_process(tmp_path, **env) as process:
        await _line(process, "nats_error")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(_DEADLINE_S):
            await process.communicate()
        assert process.returncode == 0


async def test_wrong_settings_end_it_with_a_sentence_each(tmp_path: Path) -> None:
    env = {"SECRET_KEY": "too-short-secret", "ENABLE_SIGNUP": "perhaps", "HEALTH_PORT": "http"}
    async with _auth_process(tmp_path, **env) as process:
        _, text = await process.communicate()
        assert process.returncode == 2
    told = text.decode()
    assert "SECRET_KEY: needs at least 32 characters: make one with `openssl rand -hex 32`" in told
    assert "ENABLE_SIGNUP: " in told
    assert "HEALTH_PORT: " in told
    assert "too-short-secret" not in told
