"""Why a request is refused.

AuthError                    its message is a sentence for the client, its code the HTTP status that fits
├── InvalidRequest           422
├── WrongCredentials         401
├── InvalidToken             401
├── NotEnabled               403
├── UserExists               409
└── Overloaded               503
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import ValidationError

from sd_common.auth_messages import MAX_PASSWORD_CHARS, MIN_PASSWORD_CHARS


class AuthError(Exception):
    """Base of what the service refuses with."""

    code: ClassVar[int]


class InvalidRequest(AuthError):
    """A request that cannot be understood, or asks for what cannot be."""

    code = 422

    @classmethod
    def of(cls, error: ValidationError) -> InvalidRequest:
        """The sentence for the first field that is wrong, without its value. Raise it `from None`: the text of `error`
        shows the password."""
        loc = error.errors(include_input=False)[0]["loc"]
        return cls._of_field(str(loc[0]) if loc else None)

    @classmethod
    def _of_field(cls, field: str | None) -> InvalidRequest:
        match field:
            case "username":
                return cls("The username must be 1 to 64 letters, digits, '_' or '-'")
            case "password":
                return cls(f"The password must have {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters")
            case "token":
                return cls("The token is longer than any of this service")
            case None:
                return cls("The request must be a JSON object")
        return cls(f"The request's '{field}' is wrong")


class WrongCredentials(AuthError):
    """An unknown user or a wrong password: the client is not told which."""

    code = 401

    def __init__(self) -> None:
        super().__init__("Incorrect username or password")


class InvalidToken(AuthError):
    """A token that is not this service's, or has expired."""

    code = 401

    def __init__(self) -> None:
        super().__init__("The token is not valid or has expired")


class NotEnabled(AuthError):
    """Something that the operator has not enabled."""

    code = 403

    def __init__(self, feature: str, variable: str) -> None:
        super().__init__(f"{feature} is disabled: the operator can set {variable}=1")


class UserExists(AuthError):
    """Somebody has this name."""

    code = 409

    def __init__(self, username: str) -> None:
        super().__init__(f"User '{username}' already exists")


class Overloaded(AuthError):
    """More requests at once than the service takes."""

    code = 503

    def __init__(self) -> None:
        super().__init__("The auth service has too many requests at once: try again in a few seconds")
