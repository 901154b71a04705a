"""What the Dockerfiles, docker-compose.yml and the rendered Kubernetes manifests say, in the same words."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sd_auth.settings import AuthSettings
from sd_common.nats_users import users
from sd_common.settings import LogSettings, MinioSettings, NatsSettings, RetentionSettings, Settings, StreamSettings
from sd_gateway.settings import GatewaySettings
from sd_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose.yml"
KUBERNETES = "k8s/base"

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


def need_kubectl() -> None:
    """Skip where there is no kubectl; in CI, fail: nothing would have been checked."""
    if shutil.which("kubectl") is None:
        reason = "kubectl is not installed: without it the Kubernetes manifests cannot be rendered"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def render(directory: Path) -> list[Document]:
    """The manifests of a kustomization."""
    need_kubectl()
    result = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@cache
def kubernetes() -> list[Document]:
    """The rendered manifests of the base."""
    return render(ROOT / KUBERNETES)


def workloads() -> dict[str, Document]:
    """What runs pods, by name."""
    kinds = {"Deployment", "StatefulSet", "Job"}
    return {document["metadata"]["name"]: document for document in kubernetes() if document["kind"] in kinds}


def pod_of(workload: Document) -> Document:
    pod: Document = workload["spec"]["template"]["spec"]
    return pod


def container_of(workload: Document) -> Document:
    """The one container of its pods."""
    [container] = pod_of(workload)["containers"]
    assert isinstance(container, dict)
    return container


def kubernetes_containers() -> dict[str, Container]:
    """Our containers in Kubernetes."""
    maps = {item["metadata"]["name"]: item["data"] for item in kubernetes() if item["kind"] == "ConfigMap"}
    containers = {}
    for name, workload in workloads().items():
        container = container_of(workload)
        if not container["image"].startswith("sd-"):
            continue
        image = container["image"].removeprefix("sd-").partition(":")[0]
        environment: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            environment |= maps[source["configMapRef"]["name"]]
        variables = container.get("env", [])
        environment |= {variable["name"]: variable["value"] for variable in variables if "value" in variable}
        hook = container.get("lifecycle", {}).get("preStop", {})
        containers[name] = Container(
            image=image,
            command=container.get("command") or only(final_stage(image), "ENTRYPOINT").words(),
            environment=environment,
            secrets={variable["name"] for variable in variables if "secretKeyRef" in variable.get("valueFrom", {})},
            grace_s=pod_of(workload).get("terminationGracePeriodSeconds", 30),
            before_stop_s=hook.get("sleep", {}).get("seconds", 0),
            ports={port["containerPort"] for port in container.get("ports", [])},
        )
    return containers
