"""Settings, read from the environment, the files that it names, and `.env`: a class for each group of variables.

Each group stands in the module of the part that it is for.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sd_common.setting_files import SettingFiles

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


def parse_flag(value: Any) -> Any:
    """1/0, true/false, yes/no, on/off; empty is off."""
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in _ON:
        return True
    if word in _OFF:
        return False
    raise ValueError("must be one of 1, 0, true, false, yes, no, on, off")


Flag = Annotated[bool, BeforeValidator(parse_flag)]


def split_at_commas(text: str) -> list[str]:
    """What stands between commas, without spaces around it and without what is empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_names(value: Any) -> Any:
    """Names separated by commas."""
    return split_at_commas(value) if isinstance(value, str) else value


#: pydantic-settings would take the variable for JSON.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_names)]


class Settings(BaseSettings):
    """Base of every settings class.

    A field's variable is its name in capitals; or this with `_FILE` names the file that holds the value. An empty
    variable or file is as good as none, but for flags, where it is off.
    """

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(env_settings, EnvSettingsSource)
        assert isinstance(dotenv_settings, EnvSettingsSource)
        given = init_settings()
        variables = {**dotenv_settings.env_vars, **env_settings.env_vars}
        variables = {name: value for name, value in variables.items() if name.removesuffix("_file") not in given}
        return init_settings, SettingFiles(settings_cls, variables), env_settings, dotenv_settings

    @model_validator(mode="before")
    @classmethod
    def drop_empty_variables(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        flags = {name for name, field in cls.model_fields.items() if field.annotation is bool}
        return {name: value for name, value in values.items() if value != "" or name in flags}


S = TypeVar("S", bound=Settings)


def load_settings(settings_class: type[S], **overrides: Any) -> S:
    """Read `settings_class`, or end the process with a line per wrong variable. Values are never shown."""
    try:
        return settings_class(**overrides)
    except ValidationError as error:
        lines = [f"  {_variable(entry['loc'])}: {_sentence(entry)}" for entry in error.errors(include_input=False)]
        print("Wrong settings:", *lines, sep="\n", file=sys.stderr)  # noqa: T201 - before logs are configured
        raise SystemExit(2) from None


def _variable(loc: tuple[int | str, ...]) -> str:
    return str(loc[0]).upper() if loc else "environment"


def _sentence(entry: Any) -> str:
    return "is needed but not set" if entry["type"] == "missing" else str(entry["msg"]).removeprefix("Value error, ")
