"""Users and tokens. The auth service decides; here it is only asked."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter

from sd_common.auth_messages import AccessToken, LogInRequest, SignUpRequest, User
from sd_common.messages import Message
from sd_gateway.errors import FieldError, InvalidInput, NotAuthenticated
from sd_gateway.http.answers import json_answer
from sd_gateway.http.bodies import MAX_CREDENTIALS_BYTES, read_form, read_json
from sd_gateway.http.client_address import client_address
from sd_gateway.http.inputs import token_of
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.http.validation import checked
from sd_gateway.parts import PARTS

M = TypeVar("M", bound=Message)

sign_up_body: TypeAdapter[SignUpRequest] = TypeAdapter(SignUpRequest)
log_in_form: TypeAdapter[LogInRequest] = TypeAdapter(LogInRequest)


async def sign_up(request: web.Request) -> web.Response:
    return await _sign_up(request, await read_json(request, sign_up_body, MAX_CREDENTIALS_BYTES))


async def sign_up_by_query(request: web.Request) -> web.Response:
    return await _sign_up(request, _credentials_of_query(request, sign_up_body))


async def log_in(request: web.Request) -> web.Response:
    return await _log_in(request, await read_form(request, log_in_form, MAX_CREDENTIALS_BYTES))


async def log_in_by_query(request: web.Request) -> web.Response:
    return await _log_in(request, _credentials_of_query(request, log_in_form))


async def public_token(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    parts.account_limits.public_tokens_of_address.use(client_address(request))
    return _json(await parts.auth.public_token())


async def revoke_token(request: web.Request) -> web.Response:
    token = token_of(request)
    if token is None:
        raise NotAuthenticated("Give the token that is to be revoked, as `Authorization: Bearer <token>`")
    await request.app[PARTS].authenticator.revoke(token)
    return web.Response(status=204)


async def _sign_up(request: web.Request, credentials: SignUpRequest) -> web.Response:
    parts = request.app[PARTS]
    parts.account_limits.sign_ups_of_address.use(client_address(request))
    parts.account_limits.of_name.use(credentials.username)
    return _json(await parts.auth.sign_up(credentials))


async def _log_in(request: web.Request, credentials: LogInRequest) -> web.Response:
    parts = request.app[PARTS]
    parts.account_limits.log_ins_of_address.use(client_address(request))
    parts.account_limits.of_name.use(credentials.username)
    return _json(await parts.auth.log_in(credentials))


def _credentials_of_query(request: web.Request, adapter: TypeAdapter[M]) -> M:
    password = request.query.get("password")
    if password is None:
        raise InvalidInput([FieldError("password", "Field required")])
    return checked(
        adapter, lambda: adapter.validate_python({"username": request.match_info["username"], "password": password})
    )


def _json(message: Message) -> web.Response:
    return json_answer(message.model_dump_json().encode())


_USER = {200: Answer("The user", TypeAdapter(User))}
_TOKEN = {200: Answer("A token for a new session", TypeAdapter(AccessToken))}

OPERATIONS = (
    Operation(
        "POST",
        "/user",
        sign_up,
        tag="accounts",
        summary="Sign up",
        description="Possible where the operator set `ENABLE_SIGNUP`.",
        body=sign_up_body,
        answers=_USER,
        problems=(400, 403, 409, 413, 415, 422, 429),
        token=None,
    ),
    Operation(
        "POST",
        "/user/{username}",
        sign_up_by_query,
        tag="accounts",
        summary="Sign up, the old way",
        description="As clients of the replaced API do it. A password in a URL ends up in logs: prefer `POST /user`.",
        path_parameters={"username": "The new user's name."},
        password_in_query=True,
        answers=_USER,
        problems=(403, 409, 422, 429),
        token=None,
    ),
    Operation(
        "POST",
        "/token",
        log_in,
        tag="accounts",
        summary="Log in",
        description="The password grant of OAuth2 (RFC 6749 §4.3).",
        body=log_in_form,
        body_kind="application/x-www-form-urlencoded",
        answers=_TOKEN,
        problems=(400, 401, 413, 415, 422, 429),
        token=None,
    ),
    Operation(
        "DELETE",
        "/token",
        revoke_token,
        tag="accounts",
        summary="Log out",
        description="Revokes the token that the request brings: it is refused from now on, and its websockets are "
        "closed. Tasks that were submitted with it go on.",
        answers={204: Answer("The token is revoked", content_types=())},
        counts_for_rate=False,  # else whoever has stolen a token could keep its user from revoking it
    ),
    Operation(
        "POST",
        "/token/all",
        public_token,
        tag="accounts",
        summary="A public token",
        description="Possible where the operator set `ENABLE_PUBLIC_ACCESS`.",
        answers=_TOKEN,
        problems=(403, 429),
        token=None,
    ),
    Operation(
        "POST",
        "/token/{username}",
        log_in_by_query,
        tag="accounts",
        summary="Log in, the old way",
        description="A password in a URL ends up in logs: prefer `POST /token`.",
        path_parameters={"username": "The user's name."},
        password_in_query=True,
        answers=_TOKEN,
        problems=(401, 422, 429),
        token=None,
    ),
)
