"""Images, docker-compose and Kubernetes: they fit the code, and each other.

What is of Kubernetes alone is in `test_kubernetes`, `test_network_policies` and `test_autoscaling`.
"""

from __future__ import annotations

import glob
import http.server
import importlib.util
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from contract.manifests import (
    COMPOSE,
    NATS_PASSWORDS,
    NEEDED_IN_ENV,
    ROOT,
    SECRETS,
    SERVICES,
    SETTINGS,
    Container,
    compose,
    compose_containers,
    dockerfile,
    final_stage,
    image_environment,
    only,
    variables_of,
)
from contract.rendered import BASE, KUSTOMIZATIONS, container_of, containers_of, of_kind, pod_of, workloads
from docker.utils.build import exclude_paths  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import SecretStr

from sd_common.nats_conf import configuration
from sd_common.nats_users import SERVICES as NATS_SERVICES
from sd_common.nats_users import users

UID = 10001
#: Variables of images that no setting reads: Python's, and Hugging Face's own.
NO_SETTINGS = {"PATH", "PYTHONUNBUFFERED", "HF_HOME"}
#: Settings that are docker-compose's own business: addresses, and what must differ from one replica to the next.
FIXED_IN_COMPOSE = {"HOST", "PORT", "HEALTH_HOST", "HEALTH_PORT", "MODEL_DIR", "WORKER_NAME", "MINIO_SECURE"}
FIXED_IN_COMPOSE |= {"NATS_REPLICAS", "NATS_PASSWORD_FILE", "NATS_TLS_CA"}
#: The worker's engine has them to stop, once the running tasks had theirs.
ENGINE_STOP_S = 30

by_service = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(params=[COMPOSE, *KUSTOMIZATIONS])
def containers(request: pytest.FixtureRequest) -> dict[str, Container]:
    """Our containers, in docker-compose and in Kubernetes."""
    return compose_containers() if request.param == COMPOSE else containers_of(request.param)


def _port_setting(service: str) -> int:
    """The port a service takes where nobody says otherwise."""
    field = SETTINGS[service][0].model_fields[SERVICES[service].lower()]
    assert isinstance(field.default, int)
    return field.default


# --- Dockerfiles -----------------------------------------------------------------------------------------------------


@by_service
def test_image_runs_the_package_of_its_service(service: str) -> None:
    entrypoint = only(final_stage(service), "ENTRYPOINT")
    assert entrypoint.is_exec_form, "a shell as process 1 would keep SIGTERM to itself"
    assert entrypoint.words() == ["python", "-m", f"sd_{service}"]
    assert importlib.util.find_spec(f"sd_{service}.__main__")


@by_service
def test_image_runs_without_privileges(service: str) -> None:
    stage = final_stage(service)
    assert only(stage, "USER").words() == [f"{UID}:{UID}"], "a name is not enough for Kubernetes' runAsNonRoot"
    after_user = stage[stage.index(only(stage, "USER")) :]
    assert not [item for item in after_user if item.name in {"RUN", "COPY", "ADD"}]


@by_service
def test_image_exposes_the_port_its_service_listens_on(service: str) -> None:
    environment = image_environment(service)
    assert only(final_stage(service), "EXPOSE").words() == [str(_port_setting(service))]
    assert environment["HOST" if service == "gateway" else "HEALTH_HOST"] == "0.0.0.0"


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
        text = re.sub(rf"\b{_port_setting(service)}\b", str(port), program)
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
    unwanted = [".env", "services/gateway/.env", "data/secrets.json", ".git/config", ".venv/bin/python", "tests/x.py"]
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
    document = tomllib.loads((ROOT / pyproject / "pyproject.toml").read_text())
    return {canonicalize_name(Requirement(line).name) for line in document["project"]["dependencies"]}


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
    assert ["models", image_environment("worker")["MODEL_DIR"]] in copies
    assert (ROOT / "models/shapes/model_index.json").is_file()


def test_the_workers_model_cache_outlives_its_container() -> None:
    [directory] = only(final_stage("worker"), "VOLUME").words()
    assert image_environment("worker")["HF_HOME"].startswith(f"{directory}/")
    assert compose()["services"]["worker"]["volumes"] == [f"model-cache:{directory}"]
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


# --- Both docker-compose and Kubernetes ------------------------------------------------------------------------------


def test_every_part_of_ours_runs(containers: dict[str, Container]) -> None:
    assert set(containers) == set(SETTINGS)
    for container in containers.values():
        assert (ROOT / "services" / container.image / "Dockerfile").is_file()


def test_every_container_runs_a_module_that_exists(containers: dict[str, Container]) -> None:
    for name, container in containers.items():
        python, dash_m, module = container.command
        assert (python, dash_m) == ("python", "-m")
        assert module == ("sd_common.provision" if name == "provision" else f"sd_{name}")
        assert importlib.util.find_spec(module)


def test_every_variable_set_is_a_setting_of_that_service(containers: dict[str, Container]) -> None:
    for name, container in containers.items():
        known = set().union(*map(variables_of, SETTINGS[name])) | NO_SETTINGS
        assert set(container.environment) - known == set(), name
    for service in SERVICES:
        known = set().union(*map(variables_of, SETTINGS[service])) | NO_SETTINGS
        assert set(image_environment(service)) - known == set(), service


def test_every_service_takes_the_settings_it_is_given(
    containers: dict[str, Container], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing needed is missing, and every value is one that the service accepts."""
    every_setting = set().union(*(variables_of(each) for classes in SETTINGS.values() for each in classes))
    for name, container in containers.items():
        with monkeypatch.context() as patch:
            for variable in every_setting:
                patch.delenv(variable, raising=False)
            for variable, value in container.variables().items():
                if variable in every_setting:
                    patch.setenv(variable, value)
            for settings_class in SETTINGS[name]:
                settings_class(_env_file=None)


def test_each_service_gets_its_own_secrets_and_no_others(containers: dict[str, Container]) -> None:
    for name, container in containers.items():
        assert container.secrets == {secret for secret, readers in SECRETS.items() if name in readers}, name
        assert not set(container.environment) & set(SECRETS), "a secret among the settings that anybody may read"


def test_every_secret_setting_is_known_to_these_tests() -> None:
    fields = {
        name.upper(): str(field.annotation)
        for classes in SETTINGS.values()
        for settings_class in classes
        for name, field in settings_class.model_fields.items()
    }
    secret = {name for name, annotation in fields.items() if SecretStr.__name__ in annotation}
    # User and password are settings of their own, so that the URL tells nothing.
    assert secret - {"NATS_URL"} <= set(SECRETS)


def test_each_service_is_its_own_user_of_nats(containers: dict[str, Container]) -> None:
    assert {name: container.environment["NATS_USER"] for name, container in containers.items()} == {
        service.name: service.name for service in NATS_SERVICES
    }


def test_compose_gives_each_user_of_nats_its_own_password_and_the_server_all() -> None:
    passwords = {name: f"of {name}" for name in NATS_PASSWORDS}
    services = compose({**dict.fromkeys(NEEDED_IN_ENV, "x"), **passwords})["services"]
    # In quotes, so that nats-server takes none for a number.
    assert services["nats"]["environment"] == {name: f'"of {name}"' for name in NATS_PASSWORDS}
    for user in NATS_SERVICES:
        told = {value for value in services[user.name]["environment"].values() if str(value).startswith("of ")}
        assert told == {f"of {user.password_variable}"}


def test_kubernetes_gives_each_user_of_nats_its_own_password_and_the_server_all() -> None:
    def references(workload: str) -> dict[str, str]:
        """Keys of the Secret, by variable."""
        variables = container_of(workloads(BASE)[workload])["env"]
        secret = {
            each["name"]: each["valueFrom"]["secretKeyRef"]
            for each in variables
            if "secretKeyRef" in each.get("valueFrom", {})
        }
        return {name: reference["key"] for name, reference in secret.items() if reference["name"] == "sd-nats"}

    for user in NATS_SERVICES:
        assert references(user.name) == {"NATS_PASSWORD": user.password_variable}
    of_server = references("nats")
    assert set(of_server.values()) == NATS_PASSWORDS
    plain = {
        each["name"]: each["value"]
        for each in container_of(workloads(BASE)["nats"])["env"]
        if "$(" in each.get("value", "")
    }
    assert plain == {key: f'"$({name})"' for name, key in of_server.items()}


def test_nats_is_configured_with_the_users_of_the_code() -> None:
    [source] = compose()["services"]["nats"]["configs"]
    committed = ROOT / compose()["configs"][source["source"]]["file"]
    assert committed.read_text() == configuration(users())
    for kustomization in KUSTOMIZATIONS:
        [config] = [each for each in pod_of(workloads(kustomization)["nats"])["volumes"] if each["name"] == "config"]
        files = of_kind(kustomization, "ConfigMap")[config["configMap"]["name"]]["data"]
        assert files[committed.name] == configuration(users())
        assert f"include {committed.name}" in files["server.conf"].splitlines()


def test_the_gateway_and_the_workers_agree_on_where_clients_reach_them(containers: dict[str, Container]) -> None:
    assert containers["gateway"].environment["BASE_URL"] == containers["worker"].environment["BASE_URL"]


def test_a_service_told_to_stop_has_the_time_it_needs(containers: dict[str, Container]) -> None:
    worker, gateway = containers["worker"], containers["gateway"]
    assert worker.grace_s > worker.before_stop_s + float(worker.variables()["DRAIN_TIMEOUT_S"]) + ENGINE_STOP_S
    assert gateway.grace_s > gateway.before_stop_s + float(gateway.variables()["SHUTDOWN_TIMEOUT_S"])


def test_images_are_pinned() -> None:
    images = {item.words()[0] for service in SERVICES for item in dockerfile(service) if item.name == "FROM"}
    images |= {service["image"] for service in compose()["services"].values() if "image" in service}
    images |= {container_of(workload)["image"] for workload in workloads(BASE).values()}
    for image in images:
        assert re.search(r":[^:/]*\d[^:/]*$", image), image


def test_the_servers_are_the_same_in_compose_and_kubernetes() -> None:
    for name in ("nats", "minio"):
        assert container_of(workloads(BASE)[name])["image"] == compose()["services"][name]["image"]


# --- docker-compose --------------------------------------------------------------------------------------------------


def test_compose_runs_five_workers() -> None:
    assert compose()["services"]["worker"]["deploy"]["replicas"] == 5


def test_compose_publishes_the_gateway_alone() -> None:
    published = {name: service["ports"] for name, service in compose()["services"].items() if "ports" in service}
    assert published == {"gateway": [f"8000:{_port_setting('gateway')}"]}


def test_compose_links_follow_the_published_port() -> None:
    secrets = dict.fromkeys(NEEDED_IN_ENV, "x" * 32)
    gateway = compose({**secrets, "PORT": "9000"})["services"]["gateway"]
    assert gateway["ports"] == ["9000:8000"]
    assert gateway["environment"]["BASE_URL"] == "http://localhost:9000"


@pytest.mark.parametrize("secret", sorted(NEEDED_IN_ENV))
def test_compose_does_not_start_without_its_secrets(secret: str) -> None:
    secrets = dict.fromkeys(NEEDED_IN_ENV, "x" * 32) | {secret: ""}
    with pytest.raises(KeyError, match=secret):
        compose(secrets)


def test_compose_hands_on_every_setting_of_env() -> None:
    for name, container in compose_containers().items():
        wanted = set().union(*map(variables_of, SETTINGS[name])) - FIXED_IN_COMPOSE
        assert wanted - set(container.environment) - container.secrets == set(), name


def test_compose_waits_for_what_can_be_waited_for() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_completed_successfully":
                assert services[needed]["restart"] == "no", f"{name} would wait for {needed} for ever"
            else:
                has_image_of_ours = "build" in services[needed]
                assert how["condition"] == "service_healthy"
                assert "healthcheck" in services[needed] or has_image_of_ours
        if name in SETTINGS and name != "provision":
            assert service["depends_on"]["provision"] == {"condition": "service_completed_successfully"}
            assert service["depends_on"]["nats"] == {"condition": "service_healthy"}


def test_compose_keeps_data_in_named_volumes() -> None:
    document = compose()
    used = {volume.partition(":")[0] for each in document["services"].values() for volume in each.get("volumes", [])}
    assert used == set(document["volumes"]) == {"nats", "minio", "model-cache"}
