"""What the Dockerfiles and docker-compose.yml say, in the words that `rendered` has for Kubernetes too."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sd_auth.settings import AuthSettings
from sd_common.logs import LogSettings
from sd_common.nats_settings import NatsSettings
from sd_common.nats_users import users
from sd_common.picture_bucket import RetentionSettings
from sd_common.s3_client import MinioSettings
from sd_common.settings import Settings
from sd_common.streams import StreamSettings
from sd_common.trace_export import TraceSettings
from sd_embedded.child_process import installed
from sd_gateway.settings import GatewaySettings
from sd_worker.settings import WorkerSettings
from supply_chain.dockerfiles import ROOT, final_stage, only, variables

COMPOSE = "docker-compose.yml"
#: What may be laid on top of it.
OVERLAYS = ("docker-compose.gpu.yml", "docker-compose.monitoring.yml")

#: The services that have an image of their own, with the setting that is the image's port.
SERVICES = {"gateway": "PORT", "auth": "HEALTH_PORT", "worker": "HEALTH_PORT"}

#: What each of our containers reads its settings with.
SETTINGS: dict[str, tuple[type[Settings], ...]] = {
    "gateway": (GatewaySettings, NatsSettings, MinioSettings, LogSettings, TraceSettings),
    "auth": (AuthSettings, NatsSettings, LogSettings, TraceSettings),
    "worker": (WorkerSettings, NatsSettings, MinioSettings, LogSettings, TraceSettings),
    "provision": (NatsSettings, StreamSettings, RetentionSettings, MinioSettings, LogSettings),
}

#: Who may know what. Values that no setting asks for would do.
SECRETS = {
    "SECRET_KEY": {"auth"},
    "SECRET_KEY_PREVIOUS": {"auth"},
    "NATS_PASSWORD": {"gateway", "auth", "worker", "provision"},
    "MINIO_ACCESS_KEY": {"gateway", "worker", "provision"},
    "MINIO_SECRET_KEY": {"gateway", "worker", "provision"},
    "HUGGINGFACE_TOKEN": {"worker"},
}
#: The variables of the passwords of NATS' users: nats-server has them all, each service that of its own user.
NATS_PASSWORDS = {user.password_variable for user in users()}
SECRET_VALUE = "0123456789abcdef0123456789abcdef"

Document = dict[str, Any]


def variables_of(settings_class: type[Settings]) -> set[str]:
    """The environment variables that a settings class reads."""
    return {name.upper() for name in settings_class.model_fields}


def port_of(service: str) -> int:
    """The port a service takes where nobody says otherwise."""
    default = SETTINGS[service][0].model_fields[SERVICES[service].lower()].default
    assert isinstance(default, int)
    return default


def image_environment(service: str) -> dict[str, str]:
    """What the image sets."""
    return variables(final_stage(service))


@dataclass(frozen=True)
class Container:
    """One of our containers, wherever it runs."""

    image: str  # the service whose Dockerfile it is built from
    command: list[str]
    environment: Mapping[str, str | None]  # without the secrets; None where it comes from .env
    secrets: set[str]
    grace_s: float = 10.0
    before_stop_s: float = 0.0
    ports: set[int] = field(default_factory=set)

    def variables(self) -> dict[str, str]:
        """All that is set in it, where .env sets nothing but secrets."""
        given = {name: value for name, value in self.environment.items() if value is not None}
        return image_environment(self.image) | given | dict.fromkeys(self.secrets, SECRET_VALUE)


@cache
def compose(*overlays: str, env: tuple[tuple[str, str], ...] = ()) -> Document:
    """docker-compose.yml and what is laid on top of it, as docker-compose itself reads them with this environment."""
    files = [f"--file={ROOT / name}" for name in (COMPOSE, *overlays)]
    command = [installed("docker-compose"), "--env-file=/dev/null", *files, "config", "--format=json"]
    result = subprocess.run(command, env=dict(env), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    document: Document = json.loads(result.stdout)
    return document


def compose_text() -> str:
    """All files of docker-compose."""
    return "\n".join((ROOT / name).read_text() for name in (COMPOSE, *OVERLAYS))


def compose_secrets(service: Document) -> dict[str, str]:
    """The secrets that a service of docker-compose gets: what each is called, and where its file is mounted."""
    return {secret["source"]: secret["target"] for secret in service.get("secrets", [])}


def compose_nats_config() -> dict[Path, str]:
    """What nats-server reads under docker-compose, by where it is mounted."""
    document = compose()
    mounts = document["services"]["nats"]["configs"]
    return {Path(each["target"]): Path(document["configs"][each["source"]]["file"]).read_text() for each in mounts}


def compose_containers() -> dict[str, Container]:
    """Our containers in docker-compose."""
    containers = {}
    for name, service in compose()["services"].items():
        if "build" not in service:
            continue
        environment: dict[str, str | None] = service["environment"]
        secrets = {name.removesuffix("_FILE") for name in environment if name.endswith("_FILE")}
        image = Path(service["build"]["dockerfile"]).parent.name
        containers[name] = Container(
            image=image,
            command=service["entrypoint"] or only(final_stage(image), "ENTRYPOINT").words(),
            environment={name: value for name, value in environment.items() if not name.endswith("_FILE")},
            secrets=secrets,
            grace_s=_seconds(service.get("stop_grace_period", "10s")),
            ports={port["target"] for port in service.get("ports", [])},
        )
    return containers


def _seconds(duration: str) -> float:
    """Of what docker-compose writes as 5m50s."""
    minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration).groups()  # type: ignore[union-attr]
    return 60 * int(minutes or 0) + int(seconds or 0)
