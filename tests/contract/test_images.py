"""The services' images, as their Dockerfiles say."""

from __future__ import annotations

import glob
import http.server
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.manifests import (
    SERVICES,
    SETTINGS,
    compose,
    image_environment,
    port_of,
)
from contract.rendered import BASE, container_of, workloads
from docker.utils.build import exclude_paths  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sd_embedded.child_process import installed
from supply_chain.dockerfiles import ROOT, dockerfile, final_stage, only, variables
from supply_chain.image_install import MAX_BYTES
from supply_chain.image_packages import image_packages

UID = 10001

by_service = pytest.mark.parametrize("service", SERVICES)


def _project(package: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    return project


@by_service
def test_image_runs_the_package_of_its_service(service: str) -> None:
    entrypoint = only(final_stage(service), "ENTRYPOINT")
    assert entrypoint.is_exec_form, "a shell as process 1 would keep SIGTERM to itself"
    assert entrypoint.words() == ["python", "-m", f"sd_{service}"]
    assert find_spec(f"sd_{service}.__main__")


@by_service
def test_image_runs_without_privileges(service: str) -> None:
    stage = final_stage(service)
    assert only(stage, "USER").words() == [f"{UID}:{UID}"], "a name is not enough for Kubernetes' runAsNonRoot"
    after_user = stage[stage.index(only(stage, "USER")) :]
    assert not [item for item in after_user if item.name in {"RUN", "COPY", "ADD"}]


@by_service
def test_image_exposes_the_ports_its_service_listens_on(service: str) -> None:
    """On all addresses of the container."""
    environment = image_environment(service)
    ports = {name: field.default for name, field in SETTINGS[service][0].model_fields.items() if name.endswith("port")}
    assert port_of(service) in ports.values()
    assert sorted(map(int, only(final_stage(service), "EXPOSE").words())) == sorted(ports.values())
    assert not {name.upper() for name in ports} & set(environment), "the image has the defaults"
    assert {environment[name.upper().replace("PORT", "HOST")] for name in ports} == {"0.0.0.0"}


@contextmanager
def _answering(status: int) -> Iterator[int]:
    """A server that answers /healthz with `status`, and anything else with 404; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@by_service
def test_healthcheck_of_the_image_tells_a_sound_service_from_an_unsound_one(service: str) -> None:
    _, _, command = only(final_stage(service), "HEALTHCHECK").rest.partition(" CMD ")
    python, dash_c, program = yaml.safe_load(command)
    assert (python, dash_c) == ("python", "-c")

    def run(port: int) -> int:
        text = re.sub(rf"\b{port_of(service)}\b", str(port), program)
        assert text != program, "it asks another port than the service listens on"
        return subprocess.run([sys.executable, "-c", text], stderr=subprocess.DEVNULL).returncode

    with _answering(200) as port:
        assert run(port) == 0
    assert run(port) != 0, "nobody listens any more"
    with _answering(503) as port:
        assert run(port) != 0


@pytest.fixture(scope="module")
def build_context() -> set[str]:
    """The files that a build may see."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    return set(exclude_paths(str(ROOT), [line for line in patterns if line and not line.startswith("#")]))


@by_service
def test_every_copied_path_is_in_the_build_context(service: str, build_context: set[str]) -> None:
    copies = [item for item in dockerfile(service) if item.name == "COPY" and "--from=" not in item.rest]
    sources = [source for copy in copies for source in copy.words()[:-1]]
    assert f"services/{service}" in sources
    assert [source for source in sources if source not in build_context] == []


def test_build_context_holds_neither_secrets_nor_data(tmp_path: Path) -> None:
    wanted = ["libs/common/src/sd_common/settings.py", "services/gateway/README.md", "models/shapes/model_index.json"]
    unwanted = [
        ".env",
        "services/gateway/.env",
        "data/secrets.json",
        "secrets/SECRET_KEY",
        ".git/config",
        ".venv/bin/python",
        "tests/x.py",
    ]
    unwanted += ["libs/common/src/sd_common/__pycache__/settings.pyc"]
    for name in wanted + unwanted:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    context = exclude_paths(str(tmp_path), [line for line in patterns if line and not line.startswith("#")])
    assert {name for name in context if (tmp_path / name).is_file()} == set(wanted)


@by_service
def test_packages_of_others_are_installed_before_our_source_is_copied(service: str) -> None:
    texts = [f"{item.name} {item.rest}" for item in dockerfile(service)]
    [installed] = [index for index, text in enumerate(texts) if "--requirements" in text]
    assert texts.index(f"COPY services/{service} services/{service}") > installed
    assert texts.index("COPY libs/common libs/common") > installed


def _declared(pyproject: str) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in _project(pyproject)["dependencies"]}


@by_service
def test_every_dependency_has_a_pinned_version(service: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    ours = {"sd-common"}
    assert (_declared("libs/common") | _declared(f"services/{service}")) - ours <= pinned


@by_service
def test_names_of_ours_are_not_looked_for_on_pypi(service: str) -> None:
    """Somebody else may take them there."""
    installs = [item.rest for item in dockerfile(service) if item.name == "RUN" and "pip install" in item.rest]
    for install in installs:
        assert "--no-deps" in install or ("echo sd-common > excludes.txt" in install and "--excludes" in install)
    needed = _declared("libs/common") | _declared(f"services/{service}")
    assert {name for name in needed if name.startswith("sd-")} == {"sd-common"}


def test_torch_is_in_the_workers_image_alone() -> None:
    heavy = {"torch", "diffusers", "transformers", "accelerate"}
    for service in SERVICES:
        instructions = " ".join(item.rest for item in dockerfile(service))
        declared = _declared("libs/common") | _declared(f"services/{service}")
        assert bool(declared & heavy) is (service == "worker")
        assert ("torch" in instructions) is (service == "worker")


def test_the_workers_image_has_the_bundled_model_where_it_looks_for_models() -> None:
    copies = [item.words() for item in final_stage("worker") if item.name == "COPY"]
    assert ["models/shapes", f"{image_environment('worker')['MODEL_DIR']}/shapes"] in copies
    assert (ROOT / "models/shapes/model_index.json").is_file()


def test_the_workers_model_cache_outlives_its_container() -> None:
    [directory] = only(final_stage("worker"), "VOLUME").words()
    assert image_environment("worker")["HF_HOME"].startswith(f"{directory}/")
    [volume] = [each for each in compose()["services"]["worker"]["volumes"] if each["type"] == "volume"]
    assert (volume["type"], volume["source"], volume["target"]) == ("volume", "model-cache", directory)
    mounts = container_of(workloads(BASE)["worker"])["volumeMounts"]
    assert {"name": "model-cache", "mountPath": directory} in mounts


@pytest.mark.parametrize("package", ["libs/common", *(f"services/{service}" for service in SERVICES)])
def test_installed_package_has_every_file_that_its_source_has(package: str) -> None:
    """What setuptools leaves out is missing in an image, and nowhere else: checkouts are installed editable."""
    document = tomllib.loads((ROOT / package / "pyproject.toml").read_text())
    source = ROOT / package / "src"
    directories = {path.parent for path in source.rglob("__init__.py")}
    packaged: set[Path] = set()
    for name, patterns in document["tool"]["setuptools"]["package-data"].items():
        of_it = directories if name == "*" else {source.joinpath(*name.split("."))}
        globs = [str(directory / pattern) for directory in of_it for pattern in patterns]
        packaged |= {Path(path) for each in globs for path in glob.glob(each, recursive=True)}
    [top] = {path for path in source.iterdir() if (path / "__init__.py").exists()}
    data = {path for path in top.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
    assert sorted(str(path.relative_to(ROOT)) for path in data - packaged) == []


@by_service
def test_hadolint_has_nothing_to_say(service: str) -> None:
    command = [installed("hadolint"), "--failure-threshold=style", str(ROOT / "services" / service / "Dockerfile")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@by_service
def test_labels_say_what_the_image_is(service: str) -> None:
    project = _project(f"services/{service}")
    assert variables(final_stage(service), "LABEL") == {
        "org.opencontainers.image.title": project["name"],
        "org.opencontainers.image.description": project["description"],
        "org.opencontainers.image.licenses": project["license"],
        "org.opencontainers.image.version": "$VERSION",
        "org.opencontainers.image.revision": "$REVISION",
        "org.opencontainers.image.source": "$SOURCE",
    }
    assert variables(final_stage(service), "ARG") == {"VERSION": project["version"], "REVISION": "", "SOURCE": ""}


@by_service
def test_uv_installs_with_a_cache_that_stays_out_of_the_image(service: str) -> None:
    installs = [item.rest for item in dockerfile(service) if item.name == "RUN" and "pip install" in item.rest]
    assert installs
    assert all("--mount=type=cache,target=/root/.cache/uv" in install for install in installs)
    [uv] = [item.words()[0] for item in dockerfile(service) if item.name == "FROM" and item.rest.endswith(" AS uv")]
    pin = re.search(r"^uv==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert uv == f"ghcr.io/astral-sh/uv:{pin[1]}", "`make image-sizes` tries what the image does, with this version"


@pytest.mark.parametrize("service", MAX_BYTES)
def test_packages_of_an_image_without_torch_are_small(service: str) -> None:
    """As they are here. `make image-sizes` installs them as the image does, compiled."""
    files = {
        Path(str(file.locate()))
        for package in image_packages(service).values()
        for file in package.installed.files or ()
    }
    assert 10_000_000 < sum(file.stat().st_size for file in files if file.is_file()) < MAX_BYTES[service]
