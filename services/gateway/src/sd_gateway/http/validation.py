"""What is wrong with an input: every field is told, with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from sd_gateway.errors import FieldError, InvalidInput, MalformedBody

T = TypeVar("T")

#: Fields of a body or a query. No operation has half as many.
MAX_FIELDS = 100
#: Wrong fields that are told, and the characters of a name that is.
MAX_ERRORS = 20
_MAX_NAME_CHARS = 64
_KIND_FIELD = "params_type"


def checked(validate: Callable[[], T]) -> T:
    """What `validate` returns; pydantic's errors become `InvalidInput`, or `MalformedBody` where it is not JSON."""
    try:
        return validate()
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False, include_context=False)
        if any(entry["type"] == "json_invalid" for entry in entries):
            raise MalformedBody(f"The body is not JSON: {entries[0]['msg'].removeprefix('Invalid JSON: ')}") from error
        told = entries[:MAX_ERRORS]
        fields = [FieldError(_field(entry["type"], entry["loc"]), _sentence(entry["msg"])) for entry in told]
        raise InvalidInput(fields, len(entries) - len(told)) from error


def too_many_fields(what: str) -> InvalidInput:
    """The error for a `body` or a `query` that has more than `MAX_FIELDS`."""
    return InvalidInput([FieldError(what, f"Has more than {MAX_FIELDS} fields, which no operation takes")])


def _sentence(message: str) -> str:
    """As pydantic has it, which counts a password in items."""
    return message.replace("items after validation", "characters")


def _field(error_type: str, loc: tuple[int | str, ...]) -> str:
    """`steps`; pydantic puts the kind of task that was recognised before it, and names no field for an unknown kind."""
    if error_type in ("union_tag_invalid", "union_tag_not_found"):
        return _KIND_FIELD
    named = [str(part) for part in loc]
    if len(named) > 1 and named[0] in ("txt2img", "img2img", "inpaint"):
        named = named[1:]
    name = ".".join(named) or "body"
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}…"
