"""Delete a user: `python -m sd_auth.delete_user NAME`, where the auth service runs, with its settings of NATS.

For one whose password is known to others, or forgotten: the user can then sign up anew, or be made anew by
`sd_auth.create_user`.
"""

from __future__ import annotations

import argparse
import asyncio

import structlog

from sd_auth.connected_users import connected_users
from sd_common.errors import SubjectError, Unavailable
from sd_common.logs import LogSettings, configure_logs
from sd_common.nats_settings import NatsSettings
from sd_common.settings import load_settings
from sd_common.subjects import check_token

log = structlog.get_logger(__name__)


async def delete_user(settings: NatsSettings, username: str) -> bool:
    """Whether there was one. Raises `Unavailable` where NATS is not there, or the bucket does not answer."""
    async with connected_users(settings) as users:
        return await users.delete(username)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    username: str = parser.parse_args().name
    configure_logs(load_settings(LogSettings), "auth")
    try:
        check_token(username)
        was_there = asyncio.run(delete_user(load_settings(NatsSettings), username))
    except (SubjectError, Unavailable) as error:
        raise SystemExit(str(error)) from error
    if not was_there:
        raise SystemExit(f"There is no user '{username}'")
    log.info("user_deleted", user=username, tokens="those given out before are valid until they expire")


if __name__ == "__main__":
    main()
