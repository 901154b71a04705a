"""Requests to the auth service and its answers.

Errors travel in the headers of the NATS service protocol (ADR-32): `Nats-Service-Error-Code` holds the HTTP status that
fits, `Nats-Service-Error` the sentence for the client.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_serializer

from sd_common.messages import Message, Timestamp, Token

SERVICE_NAME = "auth"
SIGN_UP = "auth.sign_up"
LOG_IN = "auth.log_in"
PUBLIC_TOKEN = "auth.public_token"  # noqa: S105 - a subject
LINK_TOKEN = "auth.link_token"  # noqa: S105 - a subject
JWKS = "auth.jwks"
REVOKE = "auth.revoke"
OPERATIONS = (SIGN_UP, LOG_IN, PUBLIC_TOKEN, LINK_TOKEN, JWKS, REVOKE)

#: What NATS has no room to store: the gateway says so with 503, and by when to try again.
STORE_FULL_CODE = 507

#: Claims of every token.
ISSUER = "stable-diffusion-api/auth"
AUDIENCE = "stable-diffusion-api"
ALGORITHM = "EdDSA"
#: Seconds by which a clock may be behind that of auth, or ahead of it.
LEEWAY_S = 5
#: The user of public tokens, as in the replaced API. Nobody can sign up as it.
PUBLIC_USER = "all"

MIN_PASSWORD_CHARS = 8
#: argon2 hashes any length; a bound keeps a request small.
MAX_PASSWORD_CHARS = 1024
#: Ours have some 500; a bound keeps a request small.
MAX_TOKEN_CHARS = 4096


class Credentials(Message):
    """Who somebody says to be."""

    username: Token = Field(description="1 to 64 letters, digits, `_` or `-`.")
    password: SecretStr = Field(max_length=MAX_PASSWORD_CHARS)

    @field_serializer("password", when_used="json")
    def reveal_password(self, password: SecretStr) -> str:
        """The broker must carry the password itself; logs and reprs show stars."""
        return password.get_secret_value()


class SignUpRequest(Credentials):
    """A new user."""

    password: SecretStr = Field(min_length=MIN_PASSWORD_CHARS, max_length=MAX_PASSWORD_CHARS)


class LogInRequest(Credentials):
    """A request for a token."""


class User(Message):
    """A user, as clients see it."""

    v: Literal[1] = Field(default=1, exclude=True)
    username: Token


class AccessToken(Message):
    """A token, in the form of OAuth2 (RFC 6749 §5.1)."""

    v: Literal[1] = Field(default=1, exclude=True)
    access_token: str
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the type's name
    expires_in: int = Field(description="Seconds until the token expires.")


class RevokeRequest(Message):
    """A token that is not to be accepted any more."""

    token: SecretStr = Field(max_length=MAX_TOKEN_CHARS)

    @field_serializer("token", when_used="json")
    def reveal_token(self, token: SecretStr) -> str:
        """As for passwords."""
        return token.get_secret_value()


class RevokedToken(Message):
    """A token that is not accepted any more, as stored and as told to gateways."""

    token_id: Token = Field(description="Its `jti` claim.")
    expires_at: Timestamp = Field(description="When the token would have expired.")


class PublicKey(Message):
    """An Ed25519 public key as a JSON Web Key (RFC 8037 §2)."""

    v: Literal[1] = Field(default=1, exclude=True)
    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str = Field(description="The public key, base64url without padding.")
    kid: str
    alg: Literal["EdDSA"] = "EdDSA"
    use: Literal["sig"] = "sig"


class PublicKeys(Message):
    """A JSON Web Key Set (RFC 7517 §5): the keys that tokens may be signed with."""

    v: Literal[1] = Field(default=1, exclude=True)
    keys: list[PublicKey]
