"""What a request brings in its head, read and checked: token, query, headers."""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from sd_gateway.errors import FieldError, InvalidInput, NotAuthenticated
from sd_gateway.http.validation import MAX_FIELDS, checked, too_many_fields

T = TypeVar("T")

#: Where a token may stand; no parameter of an operation.
TOKEN_PARAMETER = "token"  # noqa: S105 - a parameter's name


def token_of(request: web.Request) -> str | None:
    """The token of a request, from its header or else its query; None where it brings none.

    Raises `NotAuthenticated` where it brings an empty one: whose token was lost on the way, as of a variable that is
    not set, would not find their tasks as the public user. An `Authorization` of another scheme is not for us: proxies
    that ask for a password of their own hand it on.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer"
    query = request.query.get(TOKEN_PARAMETER)
    if given := (is_bearer and token.strip()) or query:
        return given
    if is_bearer or query is not None:
        raise NotAuthenticated("The token is empty: give one, or leave it out")
    return None


def read_query(request: web.Request, adapter: TypeAdapter[T]) -> T:
    """The query's parameters. Raises `InvalidInput`."""
    if len(request.query) > MAX_FIELDS:
        raise too_many_fields("query")
    parameters: dict[str, str] = {}
    for name, value in request.query.items():
        if name == TOKEN_PARAMETER:
            continue
        if name in parameters:
            raise InvalidInput([FieldError(name, "Given more than once")])
        parameters[name] = value
    return checked(adapter, lambda: adapter.validate_strings(parameters, extra="forbid"))


def read_header(request: web.Request, name: str, adapter: TypeAdapter[T]) -> T | None:
    """The header's value, None where there is none. Raises `InvalidInput`."""
    values = request.headers.getall(name, [])
    if not values:
        return None
    if len(values) > 1:
        raise InvalidInput([FieldError(name, "Given more than once")])
    try:
        return adapter.validate_python(values[0])
    except ValidationError as error:
        raise InvalidInput([FieldError(name, str(entry["msg"])) for entry in error.errors()]) from error
