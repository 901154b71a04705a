"""What the Dockerfiles and docker-compose.yml say, in the words that `rendered` has for Kubernetes too."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sd_auth.settings import AuthSettings
from sd_common.nats_users import users
from sd_common.settings import LogSettings, MinioSettings, NatsSettings, RetentionSettings, Settings, StreamSettings
from sd_gateway.settings import GatewaySettings
from sd_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose.yml"

#: The services that have an image of their own, with the setting that is the image's port.
SERVICES = {"gateway": "PORT", "auth": "HEALTH_PORT", "worker": "HEALTH_PORT"}

#: What each of our containers reads its settings with.
SETTINGS: dict[str, tuple[type[Settings], ...]] = {
    "gateway": (GatewaySettings, NatsSettings, MinioSettings, LogSettings),
    "auth": (AuthSettings, NatsSettings, LogSettings),
    "worker": (WorkerSettings, NatsSettings, MinioSettings, LogSettings),
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
#: What docker-compose does not start without.
NEEDED_IN_ENV = {"SECRET_KEY", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", *NATS_PASSWORDS}

Document = dict[str, Any]


def variables_of(settings_class: type[Settings]) -> set[str]:
    """The environment variables that a settings class reads."""
    return {name.upper() for name in settings_class.model_fields}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile, its lines joined."""

    name: str
    rest: str

    @property
    def is_exec_form(self) -> bool:
        return self.rest.startswith("[")

    def words(self) -> list[str]:
        """The arguments; for COPY and the like without flags."""
        if self.is_exec_form:
            return [str(word) for word in json.loads(self.rest)]
        return [word for word in shlex.split(self.rest) if not word.startswith("--")]


@cache
def dockerfile(service: str) -> tuple[Instruction, ...]:
    """The instructions of a service's Dockerfile."""
    lines = (ROOT / "services" / service / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text).splitlines()
    return tuple(Instruction(*re.split(r"\s+", line, maxsplit=1)) for line in joined)


def final_stage(service: str) -> tuple[Instruction, ...]:
    """The instructions of the stage that becomes the image."""
    instructions = dockerfile(service)
    start = max(index for index, instruction in enumerate(instructions) if instruction.name == "FROM")
    return instructions[start:]


def only(instructions: tuple[Instruction, ...], name: str) -> Instruction:
    """The one instruction of this name."""
    [instruction] = [instruction for instruction in instructions if instruction.name == name]
    return instruction


def image_environment(service: str) -> dict[str, str]:
    """What the image sets."""
    words = [word for item in final_stage(service) if item.name == "ENV" for word in item.words()]
    return dict(word.split("=", 1) for word in words)


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


def interpolate(text: str, env: Mapping[str, str]) -> str:
    """docker-compose's ${NAME}, ${NAME:-default} and ${NAME:?message}, one in another."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        if given := env.get(name):
            return given
        if operator == ":?":
            raise KeyError(f"{name}: {word}")
        return word or ""

    while (changed := re.sub(r"\$\{(\w+)(?:(:-|:\?)([^${}]*))?\}", value, text)) != text:
        text = changed
    return text


@cache
def compose_text() -> str:
    return (ROOT / COMPOSE).read_text()


def compose(env: Mapping[str, str] | None = None) -> Document:
    """docker-compose.yml with the variables of .env put in: by default the secrets that it needs."""
    needed = dict.fromkeys(NEEDED_IN_ENV, SECRET_VALUE) if env is None else env
    document: Document = yaml.safe_load(interpolate(compose_text(), needed))
    return document


def compose_containers() -> dict[str, Container]:
    """Our containers in docker-compose."""
    containers = {}
    for name, service in compose()["services"].items():
        if "build" not in service:
            continue
        environment: dict[str, str | None] = service["environment"]
        image = Path(service["build"]["dockerfile"]).parent.name
        containers[name] = Container(
            image=image,
            command=service.get("entrypoint") or only(final_stage(image), "ENTRYPOINT").words(),
            environment={name: value for name, value in environment.items() if name not in SECRETS},
            secrets=set(environment) & set(SECRETS),
            grace_s=float(service.get("stop_grace_period", "10s").removesuffix("s")),
            ports={int(port.rpartition(":")[2]) for port in service.get("ports", [])},
        )
    return containers
