"""The Kubernetes manifests: accepted, safe, started, probed, spread and stopped as the code needs it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from contract.manifests import SERVICES, SETTINGS, compose_containers, image_environment
from contract.rendered import (
    BASE,
    DEV,
    NAME,
    PRODUCTION,
    by_kustomization,
    container_of,
    containers_of,
    labels_of,
    manifests,
    nats_config,
    of_kind,
    pod_of,
    ports_of,
    render,
    seconds_to_start,
    workloads,
)
from jsonschema import Draft202012Validator

from prometheus_rule import RELEASE
from sd_common.health import READY_WITHIN_S
from sd_common.nats_conf import configuration
from sd_common.nats_users import users
from sd_gateway.client_socket import PING_INTERVAL_S
from sd_gateway.default_models import default_models
from sd_gateway.settings import GatewaySettings
from supply_chain.dockerfiles import ROOT

UID = 10001
SCHEMAS = Path(__file__).parent / "schemas"
#: What only the API servers of clusters with KEDA and the Prometheus operator know.
CUSTOM_KINDS = {"ScaledObject", "PodMonitor", "PrometheusRule"}
PROBES = {"startupProbe", "readinessProbe", "livenessProbe"}

by_service = pytest.mark.parametrize("service", SERVICES)


@by_kustomization
@pytest.mark.parametrize("version", ["1.33", "1.37"])
def test_kubernetes_accepts_every_manifest(kustomization: str, version: str) -> None:
    for document in manifests(kustomization):
        if document["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(document, version, strict=True)


@by_kustomization
def test_operators_accept_every_custom_resource(kustomization: str) -> None:
    for kind in CUSTOM_KINDS:
        schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
        for document in of_kind(kustomization, kind).values():
            Draft202012Validator(schema).validate(document)


def test_custom_resources_are_in_production_alone() -> None:
    used = {document["kind"] for document in manifests(PRODUCTION)} & CUSTOM_KINDS
    assert used == CUSTOM_KINDS
    for kustomization in (BASE, DEV):
        assert not {document["kind"] for document in manifests(kustomization)} & CUSTOM_KINDS


@by_kustomization
def test_everything_is_in_one_namespace_which_takes_restricted_pods_alone(kustomization: str) -> None:
    [(name, namespace)] = of_kind(kustomization, "Namespace").items()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [each for each in manifests(kustomization) if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in others} == {name}


@by_kustomization
def test_pods_run_without_privileges(kustomization: str) -> None:
    """What the pod security standard `restricted` asks for, and a read-only root file system."""
    assert set(workloads(kustomization)) == {"nats", "minio", *SETTINGS}
    for name, workload in workloads(kustomization).items():
        pod, container = pod_of(workload), container_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == UID
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        kinds = {kind for volume in pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
        assert not [port for port in container.get("ports", []) if "hostPort" in port]
        assert {"name": "tmp", "emptyDir": {}} in pod["volumes"]
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@by_kustomization
def test_pods_ask_for_the_memory_they_need_and_are_held_to_it(kustomization: str) -> None:
    for workload in workloads(kustomization).values():
        resources = container_of(workload)["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]


@by_service
def test_pods_of_services_are_probed_where_they_answer(service: str) -> None:
    workload = workloads(BASE)[service]
    field = SETTINGS[service][0].model_fields[SERVICES[service].lower()]
    # A worker has started once it has loaded its models; before, it is not ready, and lives.
    started = "/readyz" if service == "worker" else "/healthz"
    for probe, path in {"startupProbe": started, "readinessProbe": "/readyz", "livenessProbe": "/healthz"}.items():
        asked = container_of(workload)[probe]
        assert asked["httpGet"]["path"] == path
        assert ports_of(workload)[asked["httpGet"]["port"]] == field.default
        assert path == "/healthz" or asked["timeoutSeconds"] > READY_WITHIN_S, "kubelet gives one second unless told"


@by_kustomization
def test_probes_are_patient_with_a_busy_node(kustomization: str) -> None:
    """kubelet gives one second unless told."""
    for name, workload in workloads(kustomization).items():
        for probe in sorted(PROBES & set(container_of(workload))):
            assert container_of(workload)[probe].get("timeoutSeconds", 1) >= 5, (name, probe)


@by_kustomization
def test_no_rollout_is_given_up_while_a_pod_may_still_start(kustomization: str) -> None:
    """Progress is when a new pod is made, and when it is ready. Between these it may wait for room until an old one
    has ended, gets its image, and starts.
    """
    for name, deployment in of_kind(kustomization, "Deployment").items():
        deadline_s = deployment["spec"].get("progressDeadlineSeconds", 600)
        grace_s = pod_of(deployment).get("terminationGracePeriodSeconds", 30)
        pull_s = 900 if name == "worker" else 300
        assert deadline_s > grace_s + pull_s + seconds_to_start(deployment), name


@pytest.mark.parametrize("server", ["nats", "minio"])
def test_servers_are_probed_and_keep_their_data(server: str) -> None:
    workload = workloads(BASE)[server]
    assert set(container_of(workload)) >= PROBES
    [claim] = workload["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container_of(workload)["volumeMounts"]


@by_kustomization
def test_services_lead_to_pods_and_ports_that_exist(kustomization: str) -> None:
    services = of_kind(kustomization, "Service")
    assert set(services) == {"nats", "nats-headless", "minio", "gateway"}
    for service in services.values():
        [workload] = [
            each
            for each in workloads(kustomization).values()
            if service["spec"]["selector"].items() <= labels_of(each).items()
        ]
        ports = ports_of(workload)
        assert all(ports[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])


def test_addresses_in_the_settings_are_those_of_the_services() -> None:
    for containers in (compose_containers(), containers_of(BASE)):
        assert containers["gateway"].environment["NATS_URL"] == "nats://nats:4222"
        assert containers["gateway"].environment["MINIO_ENDPOINT"] == "minio:9000"


# --- NATS ------------------------------------------------------------------------------------------------------------


@by_kustomization
def test_streams_have_as_many_copies_as_there_are_servers(kustomization: str) -> None:
    num_servers = workloads(kustomization)["nats"]["spec"]["replicas"]
    assert num_servers == (1 if kustomization == DEV else 3)
    assert containers_of(kustomization)["provision"].environment["NATS_REPLICAS"] == str(num_servers)


@by_kustomization
def test_each_server_knows_all_of_its_cluster_by_the_headless_service(kustomization: str) -> None:
    workload = workloads(kustomization)["nats"]
    routes = re.findall(r"nats://(\S+?)\.(\S+?):(\d+)", nats_config(kustomization)["cluster.conf"])
    num_servers = workload["spec"]["replicas"]
    headless, port = workload["spec"]["serviceName"], str(ports_of(workload)["cluster"])
    expected = [(f"nats-{number}", headless, port) for number in range(num_servers)]
    assert routes == (expected if num_servers > 1 else [])
    assert of_kind(kustomization, "Service")[headless]["spec"]["publishNotReadyAddresses"] is True


def test_the_ports_of_the_servers_configuration_are_those_of_the_pod() -> None:
    files = nats_config(BASE)
    listening = re.findall(r"^ *(listen|http): 0\.0\.0\.0:(\d+)", "\n".join(files.values()), re.MULTILINE)
    assert sorted(int(port) for _, port in listening) == sorted(ports_of(workloads(BASE)["nats"]).values())


def test_a_server_has_the_time_to_send_its_clients_to_the_others() -> None:
    pod = pod_of(workloads(BASE)["nats"])
    durations = re.findall(r"^lame_duck_\w+: (\d+)s", nats_config(BASE)["server.conf"], re.MULTILINE)
    assert len(durations) == 2
    assert pod["terminationGracePeriodSeconds"] > sum(map(int, durations)) + 10
    pid_file = re.findall(r"^pid_file: (\S+)", nats_config(BASE)["server.conf"], re.MULTILINE)
    hook = container_of(workloads(BASE)["nats"])["lifecycle"]["preStop"]["exec"]["command"]
    assert hook == ["nats-server", "--signal", f"ldm={pid_file[0]}"]


# --- Many nodes ------------------------------------------------------------------------------------------------------


@by_kustomization
def test_nodes_are_drained_of_one_pod_of_each_workload_at_a_time(kustomization: str) -> None:
    budgets = of_kind(kustomization, "PodDisruptionBudget")
    assert set(budgets) == {"nats", *SERVICES}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels_of(workloads(kustomization)[name]).items()
        # A server of NATS that is not ready may be needed for the majority; a service that is not ready serves nobody.
        policy = "AlwaysAllow" if name in SERVICES else None
        assert budget["spec"].get("unhealthyPodEvictionPolicy") == policy, name


def test_pods_of_a_workload_are_spread_over_nodes_and_zones() -> None:
    for name in ("nats", *SERVICES):
        workload = workloads(BASE)[name]
        rules = {each["topologyKey"]: each for each in pod_of(workload)["topologySpreadConstraints"]}
        assert set(rules) == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert all(
            each["labelSelector"]["matchLabels"].items() <= labels_of(workload).items() for each in rules.values()
        )
    # Two servers on one node would be lost together, and with them the majority.
    hosts, _ = pod_of(workloads(BASE)["nats"])["topologySpreadConstraints"]
    assert hosts["whenUnsatisfiable"] == "DoNotSchedule"
    assert hosts["minDomains"] == workloads(BASE)["nats"]["spec"]["replicas"], "two nodes would take three"


def test_workers_on_several_nodes_share_the_disk_of_models() -> None:
    assert of_kind(PRODUCTION, "PersistentVolumeClaim")["model-cache"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_each_worker_in_production_has_a_gpu() -> None:
    pod = pod_of(workloads(PRODUCTION)["worker"])
    assert container_of(workloads(PRODUCTION)["worker"])["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert containers_of(PRODUCTION)["worker"].environment["DEVICE"] == "cuda"


def test_grafana_finds_the_dashboard_by_its_label() -> None:
    dashboard = of_kind(PRODUCTION, "ConfigMap")["stable-diffusion-api-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    [(file, text)] = dashboard["data"].items()
    assert text == (ROOT / "monitoring" / file).read_text()


def test_kube_prometheus_stack_finds_what_is_for_prometheus_by_its_label() -> None:
    """Its Prometheus reads objects of other namespaces, with this label."""
    for kind in ("PodMonitor", "PrometheusRule"):
        [document] = of_kind(PRODUCTION, kind).values()
        assert document["metadata"]["labels"]["release"] == RELEASE


def test_the_alerts_of_the_cluster_are_those_of_every_prometheus() -> None:
    [rule] = of_kind(PRODUCTION, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())


# --- Clients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kustomization", [BASE, PRODUCTION])
def test_the_ingress_leads_to_the_gateway_and_lets_websockets_and_pictures_through(kustomization: str) -> None:
    [ingress] = of_kind(kustomization, "Ingress").values()
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    backend = path["backend"]["service"]
    ports = of_kind(kustomization, "Service")[backend["name"]]["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in ports}
    annotations = ingress["metadata"]["annotations"]
    times_s = [int(value.rstrip("s")) for name, value in annotations.items() if name.endswith("-timeout")]
    assert len(times_s) == 4
    assert min(times_s) > 10 * PING_INTERVAL_S, "a websocket that is pinged must not be cut"
    sizes = [value for name, value in annotations.items() if name.endswith("-body-size")]
    largest_body = 3 * GatewaySettings.model_fields["max_upload_bytes"].default  # what MAX_BODY_BYTES is by default
    assert len(sizes) == 2
    assert all(int(size.rstrip("m")) * 2**20 >= largest_body for size in sizes)


@pytest.mark.parametrize("kustomization", [DEV, PRODUCTION])
def test_gateways_behind_an_ingress_know_whom_to_believe_about_addresses(kustomization: str) -> None:
    """Without it, all clients would share the limits of the ingress controller's address."""
    environment = containers_of(kustomization)["gateway"].environment
    trusted = GatewaySettings(_env_file=None, trusted_proxies=environment.get("TRUSTED_PROXIES", "")).trusted_proxies
    assert bool(trusted) is bool(of_kind(kustomization, "Ingress"))


@pytest.mark.parametrize("kustomization", [DEV, PRODUCTION])
def test_tasks_that_name_no_model_take_one_that_is_allowed(kustomization: str) -> None:
    environment = containers_of(kustomization)["gateway"].environment
    names = ("ALLOWED_MODELS", "DEFAULT_MODEL")
    given: dict[str, Any] = {name.lower(): environment[name] for name in names if name in environment}
    assert list(default_models(GatewaySettings(_env_file=None, **given)).values()) == ["shapes"] * 3


def test_production_keeps_pictures_for_a_while_and_not_for_ever() -> None:
    """Else their disk is full one day, and no task ends any more."""
    environment = containers_of(PRODUCTION)["provision"].environment
    days, events_s = environment["PICTURES_MAX_AGE_DAYS"], environment["EVENTS_MAX_AGE_S"]
    assert days is not None
    assert events_s is not None
    assert int(days) * 86400 > int(events_s), "events name pictures"


def test_what_provisioning_that_failed_has_said_can_be_read_the_next_day() -> None:
    """Pods that are tried again in place are deleted once the last try has failed, their logs with them."""
    job = of_kind(BASE, "Job")["provision"]
    assert pod_of(job)["restartPolicy"] == "Never"
    assert job["spec"]["ttlSecondsAfterFinished"] >= 24 * 3600
    assert "kubectl -n stable-diffusion logs job/provision" in README


def test_production_is_reached_by_https_where_links_say() -> None:
    [ingress] = of_kind(PRODUCTION, "Ingress").values()
    [rule], [tls] = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    assert containers_of(PRODUCTION)["gateway"].environment["BASE_URL"] == f"https://{rule['host']}"


# --- The README ------------------------------------------------------------------------------------------------------

README = (ROOT / "k8s/README.md").read_text()


def test_the_readme_says_how_to_make_every_secret() -> None:
    documented = {
        (name, key)
        for name, rest in re.findall(r"create secret generic (\S+) (.*)", README.replace("\\\n", " "))
        for key in re.findall(r"--from-literal=(\w+)=", rest)
    }
    variables = [each for workload in workloads(BASE).values() for each in container_of(workload).get("env", [])]
    references = [
        each["valueFrom"]["secretKeyRef"] for each in variables if "secretKeyRef" in each.get("valueFrom", {})
    ]
    assert documented == {(reference["name"], reference["key"]) for reference in references}


def test_the_overlay_in_the_readme_works(tmp_path: Path) -> None:
    [overlay] = re.findall(r"```yaml\n(# kustomization.yaml\n.*?)```", README, re.DOTALL)
    for directory in ("k8s", "monitoring"):
        shutil.copytree(ROOT / directory, tmp_path / directory)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/kustomization.yaml").write_text(overlay.replace("PATH/k8s", "../k8s"))
    assert yaml.safe_load(overlay)["namespace"] == "sd"
    documents = render(tmp_path / "own")
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert ("Namespace", "sd") in by_name
    assert container_of(by_name["Deployment", "worker"])["image"] == "registry.example/sd-worker:0.1.0-cu130"
    settings = [document["data"] for document in documents if document["kind"] == "ConfigMap"]
    assert {"BASE_URL": "https://pictures.example.org"} in settings
    for kind in ("PodMonitor", "PrometheusRule"):
        assert by_name[kind, "stable-diffusion-api"]["metadata"]["labels"]["release"] == "what-helm-install-was-given"
    [trigger] = by_name["ScaledObject", "worker"]["spec"]["triggers"]
    assert "//nats.sd.svc" in trigger["metadata"]["url"]


def test_workers_read_models_of_a_disk_that_the_pod_of_the_readme_writes(tmp_path: Path) -> None:
    for directory in ("k8s", "monitoring"):
        shutil.copytree(ROOT / directory, tmp_path / directory)
    (tmp_path / "own").mkdir()
    kustomization = "resources: [../k8s/overlays/production]\ncomponents: [../k8s/components/models]\n"
    (tmp_path / "own/kustomization.yaml").write_text(kustomization)
    documents = {(each["kind"], each["metadata"]["name"]): each for each in render(tmp_path / "own")}
    worker, claim = documents["Deployment", "worker"], documents["PersistentVolumeClaim", "models"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "workers are on several nodes"
    mount = {"name": "models", "mountPath": image_environment("worker")["MODEL_DIR"]}
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
    of_production = workloads(PRODUCTION)["worker"]
    assert volume in pod_of(worker)["volumes"]
    assert mount | {"readOnly": True} in container_of(worker)["volumeMounts"]
    assert len(container_of(worker)["volumeMounts"]) == len(container_of(of_production)["volumeMounts"]) + 1
    [text] = re.findall(r"<<'END'\n(apiVersion: v1\nkind: Pod\n.*?)END\n", README, re.DOTALL)
    pod = yaml.safe_load(text)
    for document in (worker, claim, pod):
        kubernetes_validate.validate(document, "1.33", strict=True)
    spec = pod["spec"]
    [container] = spec["containers"]
    assert (spec["volumes"], container["volumeMounts"]) == ([volume], [mount])
    # The namespace takes no other pods.
    hardened = pod_of(worker)["securityContext"]
    assert spec["securityContext"].items() <= hardened.items()
    assert {"runAsNonRoot", "seccompProfile"} <= set(spec["securityContext"])
    assert container["securityContext"].items() <= container_of(worker)["securityContext"].items()
    assert {"allowPrivilegeEscalation", "capabilities"} <= set(container["securityContext"])


def test_a_further_publisher_as_in_the_readme_is_a_user_of_nats(tmp_path: Path) -> None:
    [patches] = re.findall(r"```yaml\n(configMapGenerator:\n.*?)```", README, re.DOTALL)
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/kustomization.yaml").write_text(f"resources: [../k8s/overlays/dev]\n{patches}")
    conf = configuration(users(["internal", "billing"]))
    (tmp_path / "own/nats.conf").write_text(conf)
    documents = render(tmp_path / "own")
    [files] = [each["data"] for each in documents if "nats.conf" in (each.get("data") or {})]
    assert files["nats.conf"] == conf
    assert {"server.conf", "cluster.conf"} <= set(files)
    [nats] = [each for each in documents if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "nats"]
    names = [each["name"] for each in container_of(nats)["env"]]
    assert names[:2] == ["BILLING", "NATS_BILLING_PASSWORD"]


@by_kustomization
def test_every_pod_has_the_label_that_policies_and_budgets_go_by(kustomization: str) -> None:
    assert {name: labels_of(workload)[NAME] for name, workload in workloads(kustomization).items()} == {
        name: name for name in workloads(kustomization)
    }
