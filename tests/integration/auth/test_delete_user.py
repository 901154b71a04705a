"""`python -m sd_auth.delete_user`, as an operator runs it: as the user `auth` of NATS, beside an auth service."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from sd_auth.app import AuthApp
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.streams import USERS_BUCKET
from support.auth_requests import Refused, log_in, sign_up
from support.servers import NatsServer, nats_env, nats_settings_of

_DEADLINE_S = 30.0


async def _delete_user(server: NatsServer, directory: Path, name: str) -> tuple[int | None, str]:
    """The exit code, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "sd_auth.delete_user", name),
        cwd=directory,
        env=nats_env(nats_settings_of(server, "auth")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_DEADLINE_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, said.decode()


async def test_a_deleted_user_cannot_log_in_and_signs_up_with_another_password(
    auth: AuthApp, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    await sign_up(nats_client, "alice")
    await sign_up(nats_client, "bob")
    code, said = await _delete_user(nats_server, tmp_path, "alice")
    assert code == 0, said
    assert "user_deleted" in said
    with pytest.raises(Refused) as refused:
        await log_in(nats_client, "alice")
    assert refused.value.code == "401"
    await sign_up(nats_client, "alice", "another password")
    await log_in(nats_client, "alice", "another password")
    await log_in(nats_client, "bob")


async def test_a_user_whose_record_cannot_be_read_can_be_deleted(
    auth: AuthApp, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    await (await nats_client.jetstream().key_value(USERS_BUCKET)).put("alice", b"nonsense")
    assert (await _delete_user(nats_server, tmp_path, "alice"))[0] == 0
    await sign_up(nats_client, "alice")


@pytest.mark.parametrize(
    ("name", "told"), [("alice", "There is no user 'alice'"), ("*", "'*' is not 1 to 64 letters, digits, '_' or '-'")]
)
async def test_who_is_not_there_is_told(
    provisioned: NatsSettings, nats_server: NatsServer, tmp_path: Path, name: str, told: str
) -> None:
    code, said = await _delete_user(nats_server, tmp_path, name)
    assert code == 1
    assert told in said


async def test_where_nothing_is_provisioned_it_says_so(
    nats_settings: NatsSettings, nats_server: NatsServer, tmp_path: Path
) -> None:
    code, said = await _delete_user(nats_server, tmp_path, "alice")
    assert code == 1
    assert "The bucket 'users' does not answer" in said
