"""New users: for whoever signs up, and for the command `create_user`."""

from __future__ import annotations

from collections.abc import Collection

from sd_auth.errors import InvalidRequest
from sd_auth.passwords import Passwords
from sd_auth.users import UserRecord, Users
from sd_common.auth_messages import PUBLIC_USER, SignUpRequest

#: Names of the users that link tokens are made for. Nobody can sign up with such a name.
LINK_USER_PREFIX = "default_"


def is_reserved(username: str, publishers: Collection[str]) -> bool:
    """Whether nobody can sign up or log in with this name."""
    return username == PUBLIC_USER or username in publishers or username.startswith(LINK_USER_PREFIX)


async def sign_up(request: SignUpRequest, publishers: Collection[str], users: Users, passwords: Passwords) -> None:
    """Make a user. Raises `InvalidRequest` for a reserved name, `UserExists` for a taken one, and `Unavailable`."""
    if is_reserved(request.username, publishers):
        raise InvalidRequest(f"The username '{request.username}' is reserved: choose another")
    password_hash = await passwords.hash(request.password.get_secret_value())
    await users.create(UserRecord(username=request.username, password_hash=password_hash))
