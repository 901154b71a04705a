"""Who gets into the embedded nats-server: the users of `sd_common.nats_users`, with passwords of the data directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from sd_common.nats_conf import configuration
from sd_common.nats_settings import NatsSettings
from sd_common.nats_users import DEFAULT_PUBLISHER, STREAMS_ACCOUNT, NatsUser, users


class NatsAccess:
    """Passwords by user, given to the server and to whoever is that user."""

    def __init__(self, passwords: Mapping[str, str], listed: Sequence[NatsUser] | None = None) -> None:
        """`listed`: the users, where they are not those of the services and one publisher."""
        self._passwords = passwords
        self._users = users() if listed is None else listed

    def arguments(self, file: Path) -> list[str]:
        """Of nats-server; writes its configuration to `file`, which has no passwords."""
        file.write_text(configuration(self._users))
        return ["--config", str(file)]

    def environment(self) -> dict[str, str]:
        """Of nats-server: the passwords, quoted, since the server would read some hex digits as a number."""
        return {user.password_variable: f'"{self._passwords[user.name]}"' for user in self._users}

    def settings_of(self, user: str, url: str) -> NatsSettings:
        """Settings with which to connect as `user`, whatever the environment says."""
        return NatsSettings(
            _env_file=None,
            nats_url=SecretStr(url),
            nats_user=user,
            nats_password=SecretStr(self._passwords[user]),
            nats_tls_ca=None,
        )

    def publisher_env(self, url: str) -> str:
        """The lines of `publisher.env`: how programs on this machine get in."""
        address = url.removeprefix("nats://")
        return f"NATS_URL=nats://{DEFAULT_PUBLISHER}:{self._passwords[DEFAULT_PUBLISHER]}@{address}\n"


def adopt_streams(store: Path) -> None:
    """Give streams that were made before there were users to the account that has them now."""
    old, new = (store / "jetstream" / account for account in ("$G", STREAMS_ACCOUNT))
    if old.exists() and not new.exists():
        old.rename(new)
