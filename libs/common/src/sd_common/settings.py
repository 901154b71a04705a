"""Settings, read from the environment, the files that it names, and `.env`: a class for each group of variables.

Each group stands in the module of the part that it is for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sd_common.env_file import check_env_file
from sd_common.setting_files import SettingFiles

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})
#: What a flag may be.
FLAG_WORDS = _ON | _OFF


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


def matching(pattern: str, sentence: str) -> AfterValidator:
    """For the type of a setting that matches `pattern` as a whole; `sentence` is told where it does not."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(sentence)
        return value

    return AfterValidator(check)


#: Where clients reach the gateway.
BaseUrl = Annotated[
    str,
    matching(
        r"https?://[^/\s]+(/[^/\s]+)*",
        "must be a URL such as https://example.org or http://localhost:8000, without a slash at the end",
    ),
]


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


class SettingsLoader:
    """Loads groups of settings, and collects what is wrong with them."""

    def __init__(self) -> None:
        #: Lines for the operator; a variable that several groups read has one.
        self._wrong: dict[str, None] = {}

    def load(self, settings_class: type[S], **overrides: Any) -> S:
        """The group; where it is wrong, one that is not to be used."""
        env_file = overrides.get("_env_file", settings_class.model_config.get("env_file"))
        try:
            if env_file is not None:
                check_env_file(Path(env_file))
            return settings_class(**overrides)
        except ValidationError as error:
            entries = error.errors(include_input=False)
            # That a default follows from a variable which is wrong is no second mistake.
            entries = [entry for entry in entries if entry["type"] != "default_factory_not_called"]
            lines = [f"{_variable(entry['loc'])}: {_sentence(entry)}" for entry in entries]
        except ValueError as error:  # of the file
            lines = [str(error)]
        self._wrong |= dict.fromkeys(lines)
        return cast("S", settings_class.model_construct())  # the plugin of mypy takes it for one of the base

    def end_where_wrong(self) -> None:
        """End the process with a line per wrong variable, if there are any. Values are never shown."""
        if self._wrong:
            lines = [f"  {line}" for line in self._wrong]
            print("Wrong settings:", *lines, sep="\n", file=sys.stderr)  # noqa: T201 - before logs are configured
            raise SystemExit(2)


@contextmanager
def loading_settings() -> Iterator[SettingsLoader]:
    """Load several groups inside: the process ends behind it where any is wrong, with the lines of all."""
    loader = SettingsLoader()
    yield loader
    loader.end_where_wrong()


def load_settings(settings_class: type[S], **overrides: Any) -> S:
    """Read `settings_class`, or end the process with a line per wrong variable. Values are never shown."""
    with loading_settings() as loader:
        return loader.load(settings_class, **overrides)


def _variable(loc: tuple[int | str, ...]) -> str:
    return str(loc[0]).upper() if loc else "environment"


def _sentence(entry: Any) -> str:
    return "is needed but not set" if entry["type"] == "missing" else str(entry["msg"]).removeprefix("Value error, ")
