"""The defaults that a model carries: what it is best at, used for what a task does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sd_common.parameters import Guidance, SchedulerName, SidePx, Steps
from sd_worker.engine.errors import InvalidInput, ModelUnavailable
from sd_worker.engine.tasks import AnyParameters

#: In a model's directory, beside `model_index.json`.
FILE_NAME = "default_parameters.json"


class DefaultParameters(BaseModel):
    """Defaults of one model, each of which it may leave out. `width` and `height` in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: SidePx | None = None
    height: SidePx | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    scheduler: SchedulerName | None = None

    def fill_in(self, parameters: AnyParameters) -> AnyParameters:
        """`parameters` with these defaults where they say nothing.

        Raises `InvalidInput` where what they do say does not go with the defaults.
        """
        own = self.model_dump(exclude_none=True)
        missing = own.keys() & type(parameters).model_fields.keys() - parameters.model_fields_set
        filled = {**parameters.model_dump(), **{name: own[name] for name in missing}}
        try:
            return type(parameters).model_validate(filled)
        except ValidationError as error:
            raise InvalidInput(f"With the defaults of model '{parameters.model}': {_first_message(error)}") from error


def read_default_parameters(name: str, directory: Path) -> DefaultParameters:
    """What the directory of model `name` carries. Raises `ModelUnavailable` where its file says nonsense."""
    file = directory / FILE_NAME
    if not file.is_file():
        return DefaultParameters()
    try:
        return DefaultParameters.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise ModelUnavailable(
            f"Model '{name}' has a wrong {FILE_NAME}, which the operator must mend: {_first_message(error)}"
        ) from error


def _first_message(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else first["msg"]
