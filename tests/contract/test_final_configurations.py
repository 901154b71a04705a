"""`make compose-config` and `make k8s-render` print what would run, in a clone that has no .env and no secrets yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from contract.manifests import COMPOSE, OVERLAYS, Document, compose
from contract.rendered import DEV, PRODUCTION, manifests

from sd_embedded.child_process import installed
from supply_chain.dockerfiles import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the targets read, in a directory of its own. Its environment is yet to be made, by a `python` that installs
    nothing: the programs are there already."""
    for name in ("Makefile", COMPOSE, *OVERLAYS):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("k8s", "monitoring"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for pattern in ("constraints.txt", "requirements-dev.txt", "*/pyproject.toml", "*/*/pyproject.toml"):
        for file in ROOT.glob(pattern):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("docker-compose", "kubectl"):
        (programs / name).symlink_to(installed(name))
    (programs / "python").symlink_to(shutil.which("true") or "")
    return tmp_path


def _printed(directory: Path, *words: str) -> list[Document]:
    """The YAML documents that make prints, and nothing else on standard output."""
    path = {"PATH": os.environ["PATH"]}
    result = subprocess.run(["make", *words], cwd=directory, env=path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Installing" in result.stderr, "it was no fresh clone"
    return list(yaml.safe_load_all(result.stdout))


def test_make_prints_what_docker_compose_would_run(clone: Path) -> None:
    [document] = _printed(clone, "compose-config")
    assert document["name"] == "stable-diffusion-api"
    assert set(document["services"]) == {"nats", "minio", "provision", "auth", "gateway", "worker"}
    assert set(document["secrets"]) == set(compose()["secrets"])
    assert not (clone / "secrets").exists(), "printing makes none"


def test_make_prints_what_is_laid_on_top_of_it_where_env_names_it(clone: Path) -> None:
    (clone / ".env").write_text(f"COMPOSE_FILE={':'.join((COMPOSE, *OVERLAYS))}\nPORT=9000\n")
    [document] = _printed(clone, "compose-config")
    services = document["services"]
    assert {"prometheus", "grafana"} < set(services)
    assert services["worker"]["environment"]["DEVICE"] == "cuda"
    assert services["gateway"]["environment"]["BASE_URL"] == "http://localhost:9000"


@pytest.mark.parametrize(("words", "kustomization"), [((), PRODUCTION), (("K8S_OVERLAY=dev",), DEV)])
def test_make_prints_what_kubernetes_would_run(clone: Path, words: tuple[str, ...], kustomization: str) -> None:
    documents = _printed(clone, "k8s-render", *words)
    assert documents == manifests(kustomization)
    kinds = {document["kind"] for document in documents}
    assert {"Namespace", "StatefulSet", "Deployment", "Job", "NetworkPolicy", "ConfigMap", "Service"} <= kinds
    assert ("ScaledObject" in kinds) is (kustomization == PRODUCTION)
    assert "Secret" not in kinds, "they are yours"
