"""The defaults that a model carries: what it is best at, used for what a task does not say.

They come from a file of its own, and the size, where that says none, from what the model was trained at.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sd_common.parameters import MAX_SIDE_PX, MIN_SIDE_PX, SIDE_MULTIPLE_PX, AnyParameters, DefaultParameters
from sd_worker.engine.errors import InvalidInput, ModelUnavailable

#: In a model's directory or repository, beside `model_index.json`.
DEFAULTS_FILE = "default_parameters.json"


def read_default_parameters(name: str, directory: Path) -> DefaultParameters:
    """What the file in a model's directory says, nothing where there is none. Raises `ModelUnavailable` where it says
    nonsense."""
    file = directory / DEFAULTS_FILE
    if not file.is_file():
        return DefaultParameters()
    try:
        return DefaultParameters.model_validate_json(file.read_bytes(), extra="forbid")
    except ValidationError as error:
        raise ModelUnavailable(
            f"Model '{name}' has a wrong {DEFAULTS_FILE}, which the operator must mend: {_first_of(error)}"
        ) from error


def with_trained_size(defaults: DefaultParameters, size_px: tuple[int, int] | None) -> DefaultParameters:
    """`defaults`, with the width and height that the model was trained at where they say none."""
    width, height = map(_possible_side, size_px or (None, None))
    return defaults.model_copy(update={"width": defaults.width or width, "height": defaults.height or height})


def with_defaults(parameters: AnyParameters, defaults: DefaultParameters) -> AnyParameters:
    """`parameters`, with the model's `defaults` for what they do not say. Raises `InvalidInput` where the two do not go
    together."""
    own = defaults.model_dump(exclude_none=True)
    unsaid = type(parameters).model_fields.keys() - parameters.model_fields_set
    complete = {**parameters.model_dump(), **{name: own[name] for name in own.keys() & unsaid}}
    try:
        return type(parameters).model_validate(complete)
    except ValidationError as error:
        raise InvalidInput(f"With the defaults of model '{parameters.model}': {_first_of(error)}") from error


def _possible_side(side_px: int | None) -> int | None:
    """`side_px`, unless no task may have such a side."""
    is_possible = side_px is not None and MIN_SIDE_PX <= side_px <= MAX_SIDE_PX and side_px % SIDE_MULTIPLE_PX == 0
    return side_px if is_possible else None


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    return f"{field}: {first['msg']}" if field else str(first["msg"])
