"""Make a user: `python -m sd_auth.create_user NAME`, where the auth service runs, with its settings.

Also while `ENABLE_SIGNUP` is off; the rules for names and passwords are those of sign-ups. The password is asked for on
a terminal, and is else the line that comes on standard input: what stands on a command line is shown to others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Collection
from getpass import getpass

import structlog
from pydantic import ValidationError

from sd_auth.connected_users import connected_users
from sd_auth.errors import AuthError, InvalidRequest
from sd_auth.passwords import Passwords
from sd_auth.settings import AuthSettings
from sd_auth.sign_up import sign_up
from sd_common.auth_messages import SignUpRequest
from sd_common.errors import Unavailable
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_settings import NatsSettings
from sd_common.settings import loading_settings

log = structlog.get_logger(__name__)


async def create_user(settings: NatsSettings, publishers: Collection[str], request: SignUpRequest) -> None:
    """Raises as `sign_up`, and `Unavailable` where NATS is not there."""
    async with contextlib.aclosing(Passwords()) as passwords, connected_users(settings) as users:
        await sign_up(request, publishers, users, passwords)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    username: str = parser.parse_args().name
    with loading_settings() as loader:
        log_settings, nats_settings = loader.load(LogSettings), loader.load(NatsSettings)
        settings = loader.load(AuthSettings)
    configure_logs(log_settings, "auth")
    try:
        request = _request(username, _read_password())
        asyncio.run(create_user(nats_settings, settings.publishers, request))
    except (AuthError, Unavailable) as error:
        raise SystemExit(str(error)) from None
    log.info("user_created", user=username)


def _request(username: str, password: str) -> SignUpRequest:
    try:
        return SignUpRequest.model_validate({"username": username, "password": password})
    except ValidationError as error:
        raise InvalidRequest.of(error) from None


def _read_password() -> str:
    if sys.stdin.isatty():
        with contextlib.suppress(EOFError):
            password = getpass("Password: ")
            if getpass("The same again: ") != password:
                raise InvalidRequest("The two passwords are not the same")
            return password
    # Bytes, since clients log in with UTF-8 whatever the locale is here.
    elif line := sys.stdin.buffer.readline():
        try:
            return line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise InvalidRequest("The password must be text in UTF-8") from None
    raise InvalidRequest("No password came on standard input")


if __name__ == "__main__":
    main()
