"""Settings of the embedded mode, besides those of the services it runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import Field, SecretStr

from sd_auth.settings import AuthSettings
from sd_common.health import HealthPort
from sd_common.logs import LogFormat, LogSettings
from sd_common.parameters import ModelName
from sd_common.picture_bucket import RetentionSettings
from sd_common.settings import Flag, Settings, loading_settings
from sd_common.streams import StreamSettings
from sd_common.trace_export import TraceSettings
from sd_gateway.settings import GatewaySettings
from sd_worker.settings import WorkerSettings


class EmbeddedSettings(Settings):
    """What the embedded mode alone reads."""

    data_dir: Path = Field(
        default=Path("data"),
        description="Where users, tasks and pictures are kept; made when it is not there. "
        "For its owner alone (mode 0700), from the start on; one with other things in it is refused.",
    )
    workers: int = Field(default=1, ge=0, le=16, description="Workers to run, each with its own models in memory.")


class EmbeddedGatewaySettings(GatewaySettings):
    """Other defaults than those of the gateway."""

    default_model: ModelName | None = Field(default="shapes", description="The model of tasks that name none.")
    link_query: str = Field(
        default="prompt=a+big+red+star+on+a+white+background", description="The query of that link, without the token."
    )
    health_port: HealthPort = Field(
        default=None,
        description="Port of `/healthz`, `/readyz` and `/metrics` of the whole process; 0 for any that is free, `off` "
        "for none.",
    )


class EmbeddedAuthSettings(AuthSettings):
    """Other defaults than those of the auth service."""

    secret_key: SecretStr = Field(
        default=SecretStr(""),
        validate_default=False,
        description="As for the auth service. Default: one made at the first start, kept in DATA_DIR.",
    )
    print_link_with_token: Flag = Field(default=True, description="Print a link that makes a picture, at start.")


class EmbeddedLogSettings(LogSettings):
    """Logs are read by a person here."""

    log_format: LogFormat = "console"


class AllSettings(NamedTuple):
    """Of the embedded mode and of all that it runs."""

    embedded: EmbeddedSettings
    gateway: EmbeddedGatewaySettings
    auth: EmbeddedAuthSettings
    worker: WorkerSettings
    streams: StreamSettings
    retention: RetentionSettings
    logs: EmbeddedLogSettings
    traces: TraceSettings


def load_all_settings() -> AllSettings:
    """Read all, or end the process with a line for each variable that is wrong in any."""
    with loading_settings() as loader:
        loaded = AllSettings(
            embedded=loader.load(EmbeddedSettings),
            gateway=loader.load(EmbeddedGatewaySettings),
            auth=loader.load(EmbeddedAuthSettings, health_port=None),
            worker=loader.load(WorkerSettings, health_port=None),
            streams=loader.load(StreamSettings, nats_replicas=1),
            retention=loader.load(RetentionSettings),
            logs=loader.load(EmbeddedLogSettings),
            traces=loader.load(TraceSettings),
        )
    return loaded
