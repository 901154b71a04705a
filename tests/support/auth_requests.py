"""Auth services of tests, and requests to them as the gateway makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats.aio.client import Client
from nats.micro.request import ERROR_CODE_HEADER, ERROR_HEADER
from pydantic import BaseModel, SecretStr

from sd_auth.app import AuthApp
from sd_auth.settings import AuthSettings
from sd_common.auth_messages import (
    LOG_IN,
    REVOKE,
    SIGN_UP,
    AccessToken,
    LogInRequest,
    RevokedToken,
    RevokeRequest,
    SignUpRequest,
    User,
)
from support.waiting import PATIENCE_S

SECRET_KEY = "the secret key of all replicas in the tests"
PASSWORD = "correct horse battery staple"

StartAuth = Callable[[AuthSettings], Awaitable[AuthApp]]

A = TypeVar("A", bound=BaseModel)


class Refused(Exception):
    """The service answered with an error."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence


def create_auth_settings(
    *,
    secret_key: str = SECRET_KEY,
    secret_key_previous: str = "",
    enable_signup: bool = True,
    enable_public_access: bool = True,
    print_link_with_token: bool = True,
    health_port: int | None = None,
) -> AuthSettings:
    """Settings that enable everything but the health server, whatever the environment says."""
    return AuthSettings(
        _env_file=None,
        secret_key=SecretStr(secret_key),
        secret_key_previous=SecretStr(secret_key_previous),
        enable_signup=enable_signup,
        enable_public_access=enable_public_access,
        print_link_with_token=print_link_with_token,
        access_token_expire_minutes=240,
        health_host="127.0.0.1",
        health_port=health_port,
    )


async def ask(
    client: Client,
    subject: str,
    answer_model: type[A],
    request: BaseModel | bytes = b"{}",
    timeout_s: float = PATIENCE_S,
) -> A:
    """The answer, or raises `Refused`."""
    data = request if isinstance(request, bytes) else request.model_dump_json().encode()
    answer = await client.request(subject, data, timeout=timeout_s)
    headers = answer.headers or {}
    if ERROR_CODE_HEADER in headers:
        raise Refused(headers[ERROR_CODE_HEADER], headers[ERROR_HEADER])
    return answer_model.model_validate_json(answer.data)


async def sign_up(client: Client, username: str, password: str = PASSWORD) -> User:
    """A new user."""
    return await ask(client, SIGN_UP, User, SignUpRequest(username=username, password=SecretStr(password)))


async def log_in(client: Client, username: str, password: str = PASSWORD) -> AccessToken:
    """A token of a user."""
    return await ask(client, LOG_IN, AccessToken, LogInRequest(username=username, password=SecretStr(password)))


async def revoke(client: Client, token: AccessToken) -> RevokedToken:
    """Accept a token no more."""
    return await ask(client, REVOKE, RevokedToken, RevokeRequest(token=SecretStr(token.access_token)))
