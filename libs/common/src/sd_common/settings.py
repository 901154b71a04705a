"""Settings, read from the environment, the files that it names, and `.env`; one class per group of variables."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, FilePath, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sd_common.parameters import MAX_PROMPT_CHARS, MAX_STEPS
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


def _is_server_url(text: str) -> bool:
    try:
        url = urlsplit(text if "://" in text else f"nats://{text}")
        port = url.port or 4222
    except ValueError:
        return False
    # Where a password has a slash, what is behind it is taken for the path.
    return bool(url.hostname) and port > 0 and "@" not in url.path + url.query + url.fragment


class NatsSettings(Settings):
    """Where NATS is, and how to get in."""

    nats_url: SecretStr = Field(
        default=SecretStr("nats://127.0.0.1:4222"),
        description="One or more server URLs, comma-separated. User and password may stand in them.",
    )
    nats_user: str | None = Field(default=None, description="User, where the server asks for one.")
    nats_password: SecretStr | None = Field(default=None, description="Password of NATS_USER.")
    nats_tls_ca: FilePath | None = Field(
        default=None,
        description="File of the certificate authorities, in PEM form, of which one must have signed the server's "
        "certificate. With it, the password goes to no server without TLS.",
    )

    @field_validator("nats_url")
    @classmethod
    def check_urls(cls, value: SecretStr) -> SecretStr:
        if not all(map(_is_server_url, split_at_commas(value.get_secret_value()) or [""])):
            raise ValueError(
                "must be URLs such as nats://127.0.0.1:4222, separated by commas. A password with a character that has "
                "a meaning in URLs, such as / or #, goes to NATS_PASSWORD, and its user to NATS_USER"
            )
        return value

    @field_validator("nats_tls_ca")
    @classmethod
    def check_tls_ca(cls, file: Path | None) -> Path | None:
        if file is not None:
            try:
                ssl.create_default_context(cafile=file)
            except ssl.SSLError:
                raise ValueError("the file holds no certificate in PEM form") from None
        return file

    @model_validator(mode="after")
    def check_user_and_password(self) -> NatsSettings:
        if bool(self.nats_user) is not bool(self.nats_password):
            raise ValueError("NATS_USER needs NATS_PASSWORD or NATS_PASSWORD_FILE, and these need NATS_USER")
        return self

    @property
    def servers(self) -> list[str]:
        """The URLs."""
        return split_at_commas(self.nats_url.get_secret_value())

    @property
    def user(self) -> str | None:
        """Whom the server knows us as."""
        return self.nats_user or urlsplit(self.servers[0]).username

    @property
    def password(self) -> str | None:
        """That of `nats_user`."""
        return self.nats_password.get_secret_value() if self.nats_password else None


class StreamSettings(Settings):
    """How the streams are made; only provisioning reads these."""

    nats_replicas: int = Field(default=1, ge=1, le=5, description="Copies of each stream; 3 in a cluster.")
    events_max_age_s: int = Field(
        default=86_400, ge=60, description="Seconds for which the events of a task can be read."
    )
    jobs_max_per_model: int = Field(
        default=10_000,
        ge=1,
        description="Jobs that each lane of a model's queue holds; a submission beyond them is refused with 429.",
    )
    jobs_max_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes that all queues hold together, so that the events of what is queued find room; a submission "
        "beyond them is refused with 503.",
    )


class RetentionSettings(Settings):
    """How long pictures are kept; only provisioning reads these."""

    pictures_max_age_days: int | None = Field(
        default=None,
        ge=1,
        description="Days after which the S3 server deletes a picture, made or uploaded. Default: kept for ever.",
    )


class MinioSettings(Settings):
    """Where pictures are stored: any S3 server."""

    minio_endpoint: str = Field(default="127.0.0.1:9000", pattern="^[^/]+$", description="host:port of the S3 server.")
    minio_access_key: str = Field(description="Access key of the S3 server.")
    minio_secret_key: SecretStr = Field(description="Secret key of the S3 server.")
    minio_bucket: str = Field(default="pictures", min_length=3, description="Bucket of the pictures.")
    minio_secure: Flag = Field(default=False, description="Whether to speak TLS with the S3 server.")
    minio_region: str = Field(default="us-east-1", description="Region; without one, signing asks the server for it.")


class PictureSettings(Settings):
    """How large a picture from outside may be."""

    max_upload_bytes: int = Field(default=20 * 1024 * 1024, ge=1024, description="Largest picture taken, in bytes.")
    max_picture_pixels: int = Field(
        default=2048 * 2048, ge=64 * 64, description="Largest picture taken, in pixels once decoded, or made."
    )


class TaskSettings(PictureSettings):
    """What a task may ask for, and how large its pictures may be."""

    allowed_models: Names = Field(
        default=(),
        description="Names of the models that tasks may use, separated by commas; `*` and `?` stand for other "
        "characters, and `owner/name@*` for revisions. Empty: all.",
    )
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=MAX_STEPS, description="Most denoising steps of a task.")
    max_prompt_chars: int = Field(
        default=MAX_PROMPT_CHARS, ge=1, le=MAX_PROMPT_CHARS, description="Longest prompt, in characters."
    )


class SafetySettings(Settings):
    """Whether pictures may go unchecked."""

    safety_filter: Literal["optional", "required"] = Field(
        default="optional",
        description="`optional`: a task may turn the safety filter off, and models without a safety checker are used; "
        "`required`: neither.",
    )


class LogSettings(Settings):
    """How to log."""

    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG, INFO, WARNING or ERROR."
    )
    log_format: str = Field(
        default="json", pattern="^(json|console)$", description="`json`, one object a line, or `console`."
    )


class TraceSettings(Settings):
    """Where traces go. OpenTelemetry names these, and reads more (`OTEL_…`) from the environment alone."""

    otel_exporter_otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://[^/]+",
        description="URL of an OpenTelemetry collector that takes OTLP over HTTP. Empty: nothing is traced.",
    )
    otel_traces_sampler: Literal[
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ] = Field(
        default="parentbased_always_on",
        description="Which traces are kept; with `parentbased_…`, clients that send a `traceparent` decide for theirs.",
    )
    otel_traces_sampler_arg: float = Field(default=1.0, ge=0, le=1, description="The share that `…traceidratio` keeps.")


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
