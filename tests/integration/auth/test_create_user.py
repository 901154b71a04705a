"""`python -m sd_auth.create_user`, as an operator runs it: with the settings of an auth service, sign-ups disabled."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from sd_auth.app import AuthApp
from sd_auth.connected_users import connected_users
from sd_common.errors import Unavailable
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from support.auth_requests import PASSWORD, SECRET_KEY, Refused, StartAuth, create_auth_settings, log_in, sign_up
from support.ports import free_port
from support.servers import NatsServer, nats_env, nats_settings_of

_DEADLINE_S = 60.0


@pytest_asyncio.fixture
async def auth_without_sign_ups(provisioned: NatsSettings, start_auth: StartAuth) -> AuthApp:
    return await start_auth(create_auth_settings(enable_signup=False))


async def _started(
    server: NatsServer, directory: Path, name: str, stdin: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    env = {"SECRET_KEY": SECRET_KEY, "ENABLE_SIGNUP": "0", "PUBLISHERS": "billing"}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "sd_auth.create_user", name),
        cwd=directory,
        env=nats_env(nats_settings_of(server, "auth")) | env,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # so that no terminal but a test's own is asked
    )


async def _create_user(server: NatsServer, directory: Path, name: str, stdin: bytes) -> tuple[int | None, str]:
    """The exit code, and what it said."""
    process = await _started(server, directory, name)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            said, _ = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, said.decode()


async def _create_user_at_a_terminal(
    server: NatsServer, directory: Path, name: str, typed: Sequence[str]
) -> tuple[int | None, str, str]:
    """The exit code, what it said, and what the terminal showed of what was typed, a line at each question."""
    terminal, stdin = pty.openpty()
    process = await _started(server, directory, name, stdin)
    os.close(stdin)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_DEADLINE_S):
            said = b""
            for line in typed:
                said += await process.stdout.readuntil(b": ")  # it forgets what was typed before it asks
                os.write(terminal, line.encode() + b"\n")
            said += await process.stdout.read()
            await process.wait()
        os.set_blocking(terminal, False)
        try:
            shown = os.read(terminal, 1000)
        except OSError:  # nothing, and nobody is at its other end
            shown = b""
    finally:
        os.close(terminal)
        if process.returncode is None:
            process.kill()
    return process.returncode, said.decode(), shown.decode()


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        (f"{PASSWORD}\n".encode(), PASSWORD),
        (b"  with spaces \r\nanother line\n", "  with spaces "),
        ("ungewöhnlich".encode(), "ungewöhnlich"),
    ],
    ids=["a-line", "the-first-of-lines", "no-end-of-line"],
)
async def test_a_user_made_while_sign_ups_are_off_can_log_in(
    auth_without_sign_ups: AuthApp,
    nats_server: NatsServer,
    nats_client: NatsClient,
    tmp_path: Path,
    stdin: bytes,
    password: str,
) -> None:
    code, said = await _create_user(nats_server, tmp_path, "alice", stdin)
    assert code == 0, said
    assert "user_created" in said
    assert password.strip() not in said
    await log_in(nats_client, "alice", password)


async def test_at_a_terminal_the_password_is_asked_for_twice_and_not_shown(
    auth_without_sign_ups: AuthApp, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    code, said, shown = await _create_user_at_a_terminal(nats_server, tmp_path, "alice", [PASSWORD, PASSWORD])
    assert code == 0, said
    assert PASSWORD not in said + shown
    await log_in(nats_client, "alice")


async def test_a_password_that_was_mistyped_makes_no_user(
    auth_without_sign_ups: AuthApp, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    code, said, _ = await _create_user_at_a_terminal(nats_server, tmp_path, "alice", [PASSWORD, PASSWORD + "r"])
    assert code == 1
    assert "The two passwords are not the same" in said
    with pytest.raises(Refused):
        await log_in(nats_client, "alice")


async def test_a_taken_name_is_told_and_its_password_stays(
    auth: AuthApp, nats_server: NatsServer, nats_client: NatsClient, tmp_path: Path
) -> None:
    await sign_up(nats_client, "alice")
    code, said = await _create_user(nats_server, tmp_path, "alice", b"another password\n")
    assert code == 1
    assert "User 'alice' already exists" in said
    await log_in(nats_client, "alice", PASSWORD)


@pytest.mark.parametrize(
    ("name", "stdin", "told"),
    [
        ("all", b"hunter2hunter2\n", "The username 'all' is reserved: choose another"),
        ("billing", b"hunter2hunter2\n", "The username 'billing' is reserved: choose another"),
        ("default_0", b"hunter2hunter2\n", "The username 'default_0' is reserved: choose another"),
        ("*", b"hunter2hunter2\n", "The username must be 1 to 64 letters, digits, '_' or '-'"),
        ("alice", b"hunter2\n", "The password must have 8 to 1024 characters"),
        ("alice", b"\n", "The password must have 8 to 1024 characters"),
        ("alice", b"", "No password came on standard input"),
        ("alice", b"hunter2hunter2\xff\n", "The password must be text in UTF-8"),
    ],
    ids=["public-user", "publisher", "link-user", "malformed", "short", "empty", "none", "not-utf-8"],
)
async def test_what_cannot_be_is_told_without_the_password(
    provisioned: NatsSettings, nats_server: NatsServer, tmp_path: Path, name: str, stdin: bytes, told: str
) -> None:
    code, said = await _create_user(nats_server, tmp_path, name, stdin)
    assert code == 1
    assert said.splitlines()[-1] == told
    assert "hunter2" not in said


async def test_where_nothing_is_provisioned_it_says_that_too(
    nats_settings: NatsSettings, nats_server: NatsServer, tmp_path: Path
) -> None:
    code, said = await _create_user(nats_server, tmp_path, "alice", PASSWORD.encode())
    assert code == 1
    assert "The bucket 'users' does not answer" in said
    assert "Traceback" not in said


async def test_where_nats_is_away_commands_do_not_wait_for_ever() -> None:
    settings = NatsSettings(_env_file=None, nats_url=f"nats://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="The message broker does not answer"):
        async with connected_users(settings, within_s=0.5):
            pass
