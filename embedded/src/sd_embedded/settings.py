"""Settings of the embedded mode, besides those of the services it runs."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from sd_common.health import HealthPort
from sd_common.logs import LogSettings
from sd_common.parameters import ModelName
from sd_common.settings import Flag, Settings


class EmbeddedSettings(Settings):
    """What the embedded mode reads; defaults here go before those of the services."""

    data_dir: Path = Field(
        default=Path("data"),
        description="Where users, tasks and pictures are kept; made when it is not there. "
        "For its owner alone (mode 0700), from the start on.",
    )
    workers: int = Field(default=1, ge=0, le=16, description="Workers to run, each with its own models in memory.")
    secret_key: SecretStr | None = Field(
        default=None, description="As for the auth service. Default: one made at the first start, kept in DATA_DIR."
    )
    default_model: ModelName = Field(default="shapes", description="The model of tasks that name none.")
    print_link_with_token: Flag = Field(default=True, description="Print a link that makes a picture, at start.")
    link_query: str = Field(
        default="prompt=a+big+red+star+on+a+white+background", description="The query of that link, without the token."
    )

    health_port: HealthPort = Field(
        default=None,
        description="Port of `/healthz`, `/readyz` and `/metrics` of the whole process; 0 for any that is free, `off` "
        "for none.",
    )


class EmbeddedLogSettings(LogSettings):
    """Logs are read by a person here."""

    log_format: str = Field(default="console", pattern="^(json|console)$")
