"""What the Kubernetes manifests say, as kubectl renders them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from contract.manifests import Container, Document

from sd_embedded.child_process import installed
from supply_chain.dockerfiles import ROOT, final_stage, only

#: What can be rendered: the base, and what is applied.
BASE, DEV, PRODUCTION = KUSTOMIZATIONS = ("k8s/base", "k8s/overlays/dev", "k8s/overlays/production")

by_kustomization = pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)

#: The label that says which workload a pod is of.
NAME = "app.kubernetes.io/name"


def render(directory: Path) -> list[Document]:
    """The manifests of a kustomization."""
    result = subprocess.run([installed("kubectl"), "kustomize", str(directory)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


@cache
def manifests(kustomization: str) -> list[Document]:
    """The rendered manifests of one of `KUSTOMIZATIONS`."""
    return render(ROOT / kustomization)


def of_kind(kustomization: str, kind: str) -> dict[str, Document]:
    """The manifests of a kind, by name."""
    return {each["metadata"]["name"]: each for each in manifests(kustomization) if each["kind"] == kind}


def workloads(kustomization: str) -> dict[str, Document]:
    """What runs pods, by name."""
    return {
        name: workload
        for kind in ("Deployment", "StatefulSet", "Job")
        for name, workload in of_kind(kustomization, kind).items()
    }


def pod_of(workload: Document) -> Document:
    """The template of its pods' specification."""
    pod: Document = workload["spec"]["template"]["spec"]
    return pod


def labels_of(workload: Document) -> dict[str, str]:
    """The labels of its pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def container_of(workload: Document) -> Document:
    """The one container of its pods."""
    [container] = pod_of(workload)["containers"]
    assert isinstance(container, dict)
    return container


def ports_of(workload: Document) -> dict[str, int]:
    """The ports of its container, by name."""
    return {port["name"]: port["containerPort"] for port in container_of(workload).get("ports", [])}


def seconds_to_start(workload: Document) -> float:
    """How long the startup probe lets the container take."""
    probe = container_of(workload)["startupProbe"]
    return float(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))


def nats_config(kustomization: str) -> dict[str, str]:
    """The files of the ConfigMap that nats-server reads."""
    [volume] = [each for each in pod_of(workloads(kustomization)["nats"])["volumes"] if each["name"] == "config"]
    files: dict[str, str] = of_kind(kustomization, "ConfigMap")[volume["configMap"]["name"]]["data"]
    return files


def containers_of(kustomization: str) -> dict[str, Container]:
    """Our containers in Kubernetes."""
    containers = {}
    for name, workload in workloads(kustomization).items():
        container = container_of(workload)
        if not container["image"].startswith("sd-"):
            continue
        image = container["image"].removeprefix("sd-").partition(":")[0]
        variables = container.get("env", [])
        hook = container.get("lifecycle", {}).get("preStop", {})
        containers[name] = Container(
            image=image,
            command=container.get("command") or only(final_stage(image), "ENTRYPOINT").words(),
            environment={**plain_environment(kustomization, container)},
            secrets={variable["name"] for variable in variables if "secretKeyRef" in variable.get("valueFrom", {})},
            grace_s=pod_of(workload).get("terminationGracePeriodSeconds", 30),
            before_stop_s=hook.get("sleep", {}).get("seconds", 0),
            ports=set(ports_of(workload).values()),
        )
    return containers


def plain_environment(kustomization: str, container: Document) -> dict[str, str]:
    """What a container's manifest sets itself, and by ConfigMaps."""
    maps = of_kind(kustomization, "ConfigMap")
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environment |= maps[source["configMapRef"]["name"]]["data"]
    return environment | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}
