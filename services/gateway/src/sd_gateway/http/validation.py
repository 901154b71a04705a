"""What is wrong with an input: every field is told, with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sd_common.subjects import TOKEN_PATTERN
from sd_gateway.errors import FieldError, InvalidInput, MalformedBody

T = TypeVar("T")

#: Fields of a body or a query. No operation has half as many.
MAX_FIELDS = 100
#: Wrong fields that are told, and the characters of a name that is.
MAX_ERRORS = 20
_MAX_NAME_CHARS = 64
_KIND_FIELD = "params_type"
_KINDS = ("txt2img", "img2img", "inpaint")
#: What pydantic says that tells nothing to people.
_NOT_A_TOKEN = f"String should match pattern '{TOKEN_PATTERN}'"


def checked(adapter: TypeAdapter[T], validate: Callable[[], T]) -> T:
    """What `validate` returns, which reads with `adapter`; pydantic's errors become `InvalidInput`, or `MalformedBody`
    where it is not JSON."""
    try:
        return validate()
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False, include_context=False)
        if any(entry["type"] == "json_invalid" for entry in entries):
            raise MalformedBody(f"The body is not JSON: {entries[0]['msg'].removeprefix('Invalid JSON: ')}") from error
        told = entries[:MAX_ERRORS]
        fields = [
            FieldError(
                _field(entry["type"], entry["loc"]),
                _unknown(adapter, entry["loc"]) if entry["type"] == "extra_forbidden" else _sentence(entry["msg"]),
            )
            for entry in told
        ]
        raise InvalidInput(fields, len(entries) - len(told)) from error


def too_many_fields(what: str) -> InvalidInput:
    """The error for a `body` or a `query` that has more than `MAX_FIELDS`."""
    return InvalidInput([FieldError(what, f"Has more than {MAX_FIELDS} fields, which no operation takes")])


def _sentence(message: str) -> str:
    """As pydantic has it, which counts a password in items."""
    if message == _NOT_A_TOKEN:
        return "Must be 1 to 64 letters, digits, '_' or '-'"
    return message.replace("items after validation", "characters")


def _unknown(adapter: TypeAdapter[Any], loc: tuple[int | str, ...]) -> str:
    """Of a field that there is not: which ones there are, or which is meant."""
    kind = str(loc[0]) if len(loc) > 1 else ""
    names = _names(adapter).get(kind, ())
    if close := get_close_matches(str(loc[-1])[:_MAX_NAME_CHARS], names, n=1):
        return f"There is no such field: did you mean '{close[0]}'?"
    return f"There is no such field, only {', '.join(names)}" if names else "There is no such field"


@cache
def _names(adapter: TypeAdapter[Any]) -> dict[str, tuple[str, ...]]:
    """The fields, by kind where there are such; those of no kind by an empty word."""
    schema = adapter.json_schema()
    of_kind = {
        model["properties"][_KIND_FIELD]["const"]: tuple(model["properties"])
        for model in schema.get("$defs", {}).values()
        if "const" in model.get("properties", {}).get(_KIND_FIELD, {})
    }
    return {"": tuple(schema.get("properties", ())), **of_kind}


def _field(error_type: str, loc: tuple[int | str, ...]) -> str:
    """`steps`; pydantic puts the kind of task that was recognised before it, and names no field for an unknown kind."""
    if error_type in ("union_tag_invalid", "union_tag_not_found"):
        return _KIND_FIELD
    named = [str(part) for part in loc]
    if len(named) > 1 and named[0] in _KINDS:
        named = named[1:]
    name = ".".join(named) or "body"
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}…"
