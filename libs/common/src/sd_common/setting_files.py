"""Settings from files: the variable `NAME_FILE` names the file that holds the value of the setting `NAME`.

Secrets come so where a container or a service manager hands them over: no environment shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

_SUFFIX = "_file"


class SettingFiles(PydanticBaseSettingsSource):
    """The settings for which `variables` (lower case, as pydantic-settings has them) name a file."""

    def __init__(self, settings_cls: type[BaseSettings], variables: Mapping[str, str | None]) -> None:
        super().__init__(settings_cls)
        self._variables = variables

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """What the file holds, without white space around it. Raises `ValueError` where it cannot be read, and where
        the value stands in a variable besides."""
        file = self._variables.get(field_name + _SUFFIX)
        if not file:
            return None, field_name, False
        if self._variables.get(field_name):
            raise ValueError(f"{field_name.upper()} is set as well: keep one of the two")
        try:
            return Path(file).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("the file holds no UTF-8 text") from None

    def __call__(self) -> dict[str, Any]:
        """Raises `ValidationError`, which names the variable of each file."""
        found: dict[str, Any] = {}
        wrong: list[InitErrorDetails] = []
        for name, field in self.settings_cls.model_fields.items():
            try:
                value, _, _ = self.get_field_value(field, name)
            except ValueError as error:
                told = PydanticCustomError("setting_file", "{sentence}", {"sentence": str(error)})
                wrong.append({"type": told, "loc": (name + _SUFFIX,), "input": None})
            else:
                found |= {} if value is None else {name: value}
        if wrong:
            raise ValidationError.from_exception_data(self.settings_cls.__name__, wrong)
        return found
