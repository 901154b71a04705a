"""An overlay without a cluster: each container's command as a process, in the environment of the manifests.

Translated are addresses, ports and paths, and nothing else but `DEVICE`: this machine need not have a GPU. In place of
the S3 server's image runs the server of the embedded mode.
"""

from __future__ import annotations

import re
import secrets
import sys
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Self

from contract.manifests import SETTINGS, Document, image_environment
from contract.rendered import (
    container_of,
    containers_of,
    of_kind,
    plain_environment,
    pod_of,
    ports_of,
    workloads,
)
from dry_run.pods import Pod

from sd_embedded.child_process import installed
from sd_embedded.s3_server import S3Server
from supply_chain.dockerfiles import ROOT
from support.ports import free_ports

_LOOPBACK = "127.0.0.1"
_READY_WITHIN_S = 60.0
#: Of images, that has no meaning outside of them.
_OF_IMAGES = {"PATH"}
#: Threads of torch that wait for each other in turns made a second of work take a minute.
_OF_TESTS = {"OMP_NUM_THREADS": "1", "CPU_CORES": "1"}


class Cluster:
    """The pods of one kustomization."""

    def __init__(self, kustomization: str, directory: Path) -> None:
        self._kustomization = kustomization
        self._directory = directory
        self._stack = ExitStack()
        self._num_pods: dict[str, int] = {}
        self._nats_ports: list[dict[str, int]] = []
        self.nats: list[Pod] = []

    def __enter__(self) -> Self:
        self._start_nats()
        (self._directory / "s3").mkdir(parents=True)
        self._s3 = S3Server(
            self._directory / "s3",
            self.secret("sd-minio", "MINIO_ACCESS_KEY"),
            self.secret("sd-minio", "MINIO_SECRET_KEY"),
        )
        self._s3.start()
        self._stack.callback(self._s3.kill)
        for pod in self.nats:
            pod.wait_until_ready(_READY_WITHIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def secret(self, name: str, key: str) -> str:
        """What the operator put into a Secret."""
        return self._secrets.setdefault((name, key), secrets.token_hex(32))

    def start(self, workload: str) -> Pod:
        """A pod of ours, under way."""
        number = self._num_pods[workload] = self._num_pods.get(workload, 0) + 1
        name = f"{workload}-{number}"
        manifest = workloads(self._kustomization)[workload]
        container = containers_of(self._kustomization)[workload]
        ports = _free_ports(manifest)
        given = image_environment(container.image) | self._environment(manifest, name)
        environment = {key: self._translated(value, name, manifest) for key, value in given.items()}
        environment |= {variable: str(ports[port]) for port, variable in _port_settings(workload, manifest).items()}
        if "DEVICE" in environment:
            environment["DEVICE"] = "cpu"
        environment = {key: value for key, value in environment.items() if key not in _OF_IMAGES}
        python, *arguments = container.command
        assert python == "python"
        pod = Pod(name, manifest, [sys.executable, *arguments], environment | _OF_TESTS, ports, self._directory / name)
        self._stack.callback(pod.kill)
        return pod

    def stop_nats(self, pod: Pod) -> int:
        """As `Pod.stop`, of a server of NATS."""
        manifest = workloads(self._kustomization)["nats"]
        command: list[str] = container_of(manifest)["lifecycle"]["preStop"]["exec"]["command"]
        return pod.stop([self._program(word, pod.name, manifest) for word in command])

    @cached_property
    def _secrets(self) -> dict[tuple[str, str], str]:
        return {}

    def _start_nats(self) -> None:
        manifest = workloads(self._kustomization)["nats"]
        self._nats_ports = [_free_ports(manifest) for _ in range(manifest["spec"]["replicas"])]
        for number, ports in enumerate(self._nats_ports):
            name = f"nats-{number}"
            self._write_config_maps(manifest, name, ports)
            command = [self._program(word, name, manifest) for word in container_of(manifest)["command"]]
            pod = Pod(name, manifest, command, self._environment(manifest, name), ports, self._directory / name)
            self._stack.callback(pod.kill)
            self.nats.append(pod)

    def _write_config_maps(self, manifest: Document, pod: str, ports: dict[str, int]) -> None:
        maps = of_kind(self._kustomization, "ConfigMap")
        local = {number: ports[port] for port, number in ports_of(manifest).items()}
        for volume in pod_of(manifest)["volumes"]:
            directory = self._volume(pod, volume["name"])
            directory.mkdir(parents=True)
            if "configMap" not in volume:
                continue
            for file, text in maps[volume["configMap"]["name"]]["data"].items():
                text = re.sub(r"0\.0\.0\.0:(\d+)", lambda match: f"{_LOOPBACK}:{local[int(match[1])]}", text)
                text = re.sub(r"nats-(\d+)\.nats-headless:6222", lambda match: self._route(int(match[1])), text)
                (directory / file).write_text(self._with_paths(text, pod, manifest))

    def _route(self, number: int) -> str:
        return f"{_LOOPBACK}:{self._nats_ports[number]['cluster']}"

    def _environment(self, manifest: Document, pod: str) -> dict[str, str]:
        container = container_of(manifest)
        environment = plain_environment(self._kustomization, container)
        for variable in container.get("env", []):
            match variable.get("valueFrom"):
                case {"fieldRef": {"fieldPath": "metadata.name"}}:
                    environment[variable["name"]] = pod
                case {"secretKeyRef": {"optional": True}} | None:
                    pass
                case {"resourceFieldRef": _} if variable["name"] in _OF_TESTS:
                    pass
                case {"secretKeyRef": {"name": name, "key": key}}:
                    environment[variable["name"]] = self.secret(name, key)
                case source:
                    raise NotImplementedError(f"{variable['name']} comes from {source}")
        return {
            name: re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], value)
            for name, value in environment.items()
        }

    def _translated(self, value: str, pod: str, manifest: Document) -> str:
        value = re.sub(r"(?<!\d)0\.0\.0\.0(?!\d)", _LOOPBACK, value).replace("minio:9000", self._s3.endpoint)
        if url := re.fullmatch(r"nats://(.*@)?nats:4222", value):
            value = ",".join(f"nats://{url[1] or ''}{_LOOPBACK}:{ports['nats']}" for ports in self._nats_ports)
        return self._with_paths(value, pod, manifest)

    def _program(self, word: str, pod: str, manifest: Document) -> str:
        return installed(word) if word == "nats-server" else self._with_paths(word, pod, manifest)

    def _with_paths(self, text: str, pod: str, manifest: Document) -> str:
        """Paths below the mounts of a container, and the models of the worker's image, as they are on this machine."""
        places = {"/models": ROOT / "models"}
        for mount in container_of(manifest)["volumeMounts"]:
            places[mount["mountPath"]] = self._volume(pod, mount["name"])
        path = re.compile(rf"(?<![\w/.])({'|'.join(places)})(?=[/\s]|$)", re.MULTILINE)
        return path.sub(lambda match: str(places[match[1]]), text)

    def _volume(self, pod: str, name: str) -> Path:
        return self._directory / "volumes" / pod / name


def _free_ports(manifest: Document) -> dict[str, int]:
    """A free port for each of the container's."""
    names = list(ports_of(manifest))
    return dict(zip(names, free_ports(len(names)), strict=True))


def _port_settings(workload: str, manifest: Document) -> dict[str, str]:
    """The setting of each of the container's ports: the one whose default it is."""
    fields = SETTINGS[workload][0].model_fields
    defaults = {field.default: name.upper() for name, field in fields.items() if name.endswith("port")}
    return {name: defaults[number] for name, number in ports_of(manifest).items()}
