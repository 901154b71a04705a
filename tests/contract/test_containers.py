"""docker-compose and Kubernetes run what the images have, with settings that the code reads."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from contract.manifests import (
    COMPOSE,
    KUBERNETES,
    SECRETS,
    SERVICES,
    SETTINGS,
    Container,
    compose,
    compose_containers,
    container_of,
    image_environment,
    kubernetes,
    kubernetes_containers,
    pod_of,
    port_of,
    render,
    variables_of,
    workloads,
)
from pydantic import SecretStr

from supply_chain.dockerfiles import ROOT, dockerfile

UID = 10001
#: Variables of images that no setting reads: Python's, and Hugging Face's own.
NO_SETTINGS = {"PATH", "PYTHONUNBUFFERED", "HF_HOME"}
#: The worker's engine has them to stop, once the running tasks had theirs.
ENGINE_STOP_S = 30

by_service = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(params=[COMPOSE, KUBERNETES])
def containers(request: pytest.FixtureRequest) -> dict[str, Container]:
    """Our containers, in docker-compose and in Kubernetes."""
    return compose_containers() if request.param == COMPOSE else kubernetes_containers()


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
    # Here the NATS server asks for no password, so that its URL tells nothing.
    assert secret - {"NATS_URL"} <= set(SECRETS)


def test_the_gateway_and_the_workers_agree_on_where_clients_reach_them(containers: dict[str, Container]) -> None:
    assert containers["gateway"].environment["BASE_URL"] == containers["worker"].environment["BASE_URL"]


def test_a_service_told_to_stop_has_the_time_it_needs(containers: dict[str, Container]) -> None:
    worker, gateway = containers["worker"], containers["gateway"]
    assert worker.grace_s > worker.before_stop_s + float(worker.variables()["DRAIN_TIMEOUT_S"]) + ENGINE_STOP_S
    assert gateway.grace_s > gateway.before_stop_s + float(gateway.variables()["SHUTDOWN_TIMEOUT_S"])


def test_images_are_pinned() -> None:
    images = {item.words()[0] for service in SERVICES for item in dockerfile(service) if item.name == "FROM"}
    images |= {service["image"] for service in compose()["services"].values() if "image" in service}
    images |= {container_of(workload)["image"] for workload in workloads().values()}
    for image in images:
        assert re.search(r":[^:/]*\d[^:/]*$", image), image


def test_the_servers_are_the_same_in_compose_and_kubernetes() -> None:
    for name in ("nats", "minio"):
        service, container = compose()["services"][name], container_of(workloads()[name])
        assert (container["image"], container["args"]) == (service["image"], service["command"])


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_kubernetes_accepts_every_manifest(version: str) -> None:
    for document in kubernetes():
        kubernetes_validate.validate(document, version, strict=True)


def test_manifests_name_no_namespace() -> None:
    assert [document for document in kubernetes() if "namespace" in document["metadata"]] == []


def test_pods_run_without_privileges() -> None:
    assert set(workloads()) == {"nats", "minio", *SETTINGS}
    for name, workload in workloads().items():
        pod, container = pod_of(workload), container_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == UID
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        if name != "nats":
            assert {"name": "tmp", "emptyDir": {}} in pod["volumes"]
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


def test_pods_ask_for_the_memory_they_need_and_are_held_to_it() -> None:
    for workload in workloads().values():
        resources = container_of(workload)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]


@by_service
def test_pods_of_services_are_probed_where_they_answer(service: str) -> None:
    container = container_of(workloads()[service])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    paths = {"startupProbe": "/healthz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"]["path"] == path
        assert ports[container[probe]["httpGet"]["port"]] == port_of(service)
    # The checks of readiness take up to three seconds; kubelet gives one unless told.
    assert container["readinessProbe"]["timeoutSeconds"] > 3


@pytest.mark.parametrize("server", ["nats", "minio"])
def test_servers_are_probed_and_keep_their_data(server: str) -> None:
    workload = workloads()[server]
    container = container_of(workload)
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    [claim] = workload["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container["volumeMounts"]


def test_services_lead_to_pods_and_ports_that_exist() -> None:
    services = {document["metadata"]["name"]: document for document in kubernetes() if document["kind"] == "Service"}
    assert set(services) == {"nats", "minio", "gateway"}
    for name, service in services.items():
        workload = workloads()[name]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        ports = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])


def test_only_pods_of_the_application_reach_the_servers() -> None:
    [policy] = [document for document in kubernetes() if document["kind"] == "NetworkPolicy"]
    [chosen] = policy["spec"]["podSelector"]["matchExpressions"]
    [rule] = policy["spec"]["ingress"]
    [source] = rule["from"]
    assert set(chosen["values"]) == {"nats", "minio"}
    for name, workload in workloads().items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels[chosen["key"]] == name
        assert source["podSelector"]["matchLabels"].items() <= labels.items()


def test_addresses_in_the_settings_are_those_of_the_services() -> None:
    for containers in (compose_containers(), kubernetes_containers()):
        assert containers["gateway"].environment["NATS_URL"] == "nats://nats:4222"
        assert containers["gateway"].environment["MINIO_ENDPOINT"] == "minio:9000"


def test_the_readme_says_how_to_make_every_secret() -> None:
    readme = (ROOT / "k8s/README.md").read_text().replace("\\\n", " ")
    documented = {
        (name, key)
        for name, rest in re.findall(r"create secret generic (\S+) (.*)", readme)
        for key in re.findall(r"--from-literal=(\w+)=", rest)
    }
    variables = [each for workload in workloads().values() for each in container_of(workload).get("env", [])]
    references = [each["valueFrom"]["secretKeyRef"] for each in variables if "valueFrom" in each]
    assert documented == {(reference["name"], reference["key"]) for reference in references}


def test_the_overlay_in_the_readme_works(tmp_path: Path) -> None:
    overlay, patches = re.findall(r"```yaml\n(.*?)```", (ROOT / "k8s/README.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / KUBERNETES, tmp_path / "base")
    (tmp_path / "kustomization.yaml").write_text((overlay + patches).replace("PATH/k8s/base", "base"))
    documents = render(tmp_path)
    assert all(document["metadata"]["namespace"] == "sd" for document in documents)
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    worker = container_of(by_name["Deployment", "worker"])
    assert worker["image"] == "registry.example/sd-worker:0.1.0"
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    settings = [document["data"] for document in documents if document["kind"] == "ConfigMap"]
    assert {"BASE_URL": "https://sd.example.org"} in settings
