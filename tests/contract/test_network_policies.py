"""Who may connect to whom in the cluster: as the settings of the services say, and nobody else."""

from __future__ import annotations

import ipaddress
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from contract.manifests import SERVICES, SETTINGS, Document
from contract.rendered import (
    BASE,
    DEV,
    PRODUCTION,
    by_kustomization,
    containers_of,
    labels_of,
    of_kind,
    ports_of,
    render,
    workloads,
)

from sd_common.nats_settings import NatsSettings
from sd_common.s3_client import MinioSettings
from sd_common.trace_export import TraceSettings
from supply_chain.dockerfiles import ROOT

INTERNET = "the internet"
DNS = "kube-system/kube-dns"
INGRESS_CONTROLLER = "ingress-nginx/*"
#: Programs that queue jobs, which no manifest here runs.
PUBLISHER = "*/true"
#: Addresses that are on no cluster's or provider's own network.
PUBLIC = ["1.1.1.1", "2606:4700::1111"]
PRIVATE = ["10.1.2.3", "100.64.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "fd00::1", "fe80::1"]


class Flow(NamedTuple):
    """A connection that is allowed."""

    client: str
    server: str
    port: str  # number/protocol


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def _chosen(kustomization: str, selector: Document) -> list[str]:
    return [name for name, workload in workloads(kustomization).items() if _selects(selector, labels_of(workload))]


def _peers(kustomization: str, peer: Document) -> list[str]:
    """Workloads; `namespace/application` where it is in another; `INTERNET`."""
    if "ipBlock" in peer:
        return [INTERNET]
    if "namespaceSelector" in peer:
        [namespace] = peer["namespaceSelector"].get("matchLabels", {"": "*"}).values()
        [application] = peer.get("podSelector", {}).get("matchLabels", {"": "*"}).values()
        return [f"{namespace}/{application}"]
    return _chosen(kustomization, peer["podSelector"])


def _port(kustomization: str, server: str, port: Document) -> str:
    number = port["port"]
    if isinstance(number, str):
        number = ports_of(workloads(kustomization)[server])[number]
    return f"{number}/{port.get('protocol', 'TCP')}"


def allowed(kustomization: str, direction: str) -> set[Flow]:
    """What the policies of one direction, `ingress` or `egress`, allow."""
    flows = set()
    for policy in of_kind(kustomization, "NetworkPolicy").values():
        for rule in policy["spec"].get(direction, []):
            peers = [
                each
                for peer in rule["from" if direction == "ingress" else "to"]
                for each in _peers(kustomization, peer)
            ]
            for name in _chosen(kustomization, policy["spec"]["podSelector"]):
                for peer in peers:
                    client, server = (peer, name) if direction == "ingress" else (name, peer)
                    flows |= {Flow(client, server, _port(kustomization, server, port)) for port in rule["ports"]}
    return flows


def needed(kustomization: str) -> set[Flow]:
    """Between the workloads, by what their settings tell them the addresses of."""
    flows = {Flow("nats", "nats", "6222/TCP")}
    for name in containers_of(kustomization):
        if NatsSettings in SETTINGS[name]:
            flows.add(Flow(name, "nats", "4222/TCP"))
        if MinioSettings in SETTINGS[name]:
            flows.add(Flow(name, "minio", "9000/TCP"))
    return flows


def _inside(flows: set[Flow]) -> set[Flow]:
    return {flow for flow in flows if {flow.client, flow.server} <= set(workloads(BASE))}


@by_kustomization
def test_nothing_is_allowed_unless_a_policy_says_so(kustomization: str) -> None:
    deny = of_kind(kustomization, "NetworkPolicy")["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind(kustomization, "NetworkPolicy").values():
        types = {kind for kind, rules in (("Ingress", "ingress"), ("Egress", "egress")) if rules in policy["spec"]}
        assert policy["spec"] == deny or set(policy["spec"]["policyTypes"]) == types


@by_kustomization
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_workloads_reach_the_servers_of_their_settings_and_nothing_more(kustomization: str, direction: str) -> None:
    """At both ends: a connection needs the leave of the one and of the other."""
    assert _inside(allowed(kustomization, direction)) == needed(kustomization)


@by_kustomization
def test_what_is_reached_by_name_is_looked_up_in_the_dns(kustomization: str) -> None:
    asking = {flow.client for flow in needed(kustomization)}
    flows = {flow for flow in allowed(kustomization, "egress") if flow.server == DNS}
    assert flows == {Flow(name, DNS, port) for name in asking for port in ("53/UDP", "53/TCP")}


def test_workers_alone_reach_the_internet_and_the_ingress_controller_the_gateway_alone() -> None:
    for kustomization in (BASE, DEV):
        outgoing = allowed(kustomization, "egress") - needed(kustomization)
        assert {flow for flow in outgoing if flow.server != DNS} == {Flow("worker", INTERNET, "443/TCP")}
        incoming = allowed(kustomization, "ingress") - needed(kustomization)
        has_ingress = bool(of_kind(kustomization, "Ingress"))
        expected = {Flow(PUBLISHER, "nats", "4222/TCP")}
        if has_ingress:
            expected.add(Flow(INGRESS_CONTROLLER, "gateway", "8000/TCP"))
        assert incoming == expected
    assert not of_kind(DEV, "Ingress")


def test_in_production_operators_reach_the_ports_that_their_objects_name() -> None:
    incoming = allowed(PRODUCTION, "ingress") - allowed(BASE, "ingress")
    [scaler] = of_kind(PRODUCTION, "ScaledObject").values()
    [trigger] = scaler["spec"]["triggers"]
    [(host, port)] = re.findall(r"^http://(\w+)\.\S+?:(\d+)/", trigger["metadata"]["url"])
    expected = {Flow("keda/keda-operator", host, f"{port}/TCP")}
    [monitor] = of_kind(PRODUCTION, "PodMonitor").values()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    watched = _chosen(PRODUCTION, monitor["spec"]["selector"])
    assert set(watched) == set(SERVICES)
    for name in watched:
        expected.add(
            Flow("monitoring/prometheus", name, f"{ports_of(workloads(PRODUCTION)[name])[endpoint['port']]}/TCP")
        )
    assert incoming == expected
    assert allowed(PRODUCTION, "egress") == allowed(BASE, "egress")


def _reaches(policy: Document, address: str) -> bool:
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"]]
    ip = ipaddress.ip_address(address)
    return any(
        ip in ipaddress.ip_network(block["cidr"])
        and not any(ip in ipaddress.ip_network(network) for network in block["except"])
        for block in blocks
    )


def test_publishers_in_the_namespace_reach_nats_as_the_services_do_and_nothing_else() -> None:
    policies = of_kind(BASE, "NetworkPolicy")
    publishers = policies["publishers"]["spec"]
    assert publishers["podSelector"] == {"matchLabels": {"publishes-jobs": "true"}}
    assert publishers["egress"] == policies["to-nats"]["spec"]["egress"] + policies["dns"]["spec"]["egress"]


@pytest.mark.parametrize("address", [*PUBLIC, *PRIVATE])
def test_the_internet_ends_where_the_cluster_begins(address: str) -> None:
    assert _reaches(of_kind(BASE, "NetworkPolicy")["worker"], address) is (address in PUBLIC)


def _with_component(name: str, directory: Path) -> dict[tuple[str, str], Document]:
    """What the overlay for development is with a component, by kind and name."""
    shutil.copytree(ROOT / "k8s", directory / "k8s")
    (directory / "own").mkdir()
    kustomization = f"resources: [../k8s/overlays/dev]\ncomponents: [../k8s/components/{name}]\n"
    (directory / "own/kustomization.yaml").write_text(kustomization)
    return {(each["kind"], each["metadata"]["name"]): each for each in render(directory / "own")}


def test_services_that_are_traced_reach_the_collector(tmp_path: Path) -> None:
    documents = _with_component("traces", tmp_path)
    policy = documents["NetworkPolicy", "services-to-collector"]["spec"]
    traced = [name for name, classes in SETTINGS.items() if TraceSettings in classes]
    assert sorted(_chosen(BASE, policy["podSelector"])) == sorted(traced)
    [settings] = [each for (_, name), each in documents.items() if name.startswith("trace-settings")]
    url = urlsplit(TraceSettings(_env_file=None, **_lowered(settings["data"])).otel_exporter_otlp_endpoint or "")
    [rule] = policy["egress"]
    [peer] = rule["to"]
    assert url.hostname == ".".join(reversed(_peers(BASE, peer)[0].split("/")))
    assert rule["ports"] == [{"port": url.port}]


def _lowered(variables: dict[str, str]) -> dict[str, Any]:
    return {name.lower(): value for name, value in variables.items()}


def test_a_gateway_that_fetches_pictures_of_other_hosts_reaches_them(tmp_path: Path) -> None:
    documents = _with_component("remote-images", tmp_path)
    policy = documents["NetworkPolicy", "gateway-to-internet"]
    assert [address for address in (*PUBLIC, *PRIVATE) if _reaches(policy, address)] == PUBLIC
    maps = [each for (kind, _), each in documents.items() if kind == "ConfigMap"]
    assert [each["data"]["REMOTE_IMAGES"] for each in maps if "REMOTE_IMAGES" in each["data"]] == ["public"]
    assert containers_of(BASE)["gateway"].environment.get("REMOTE_IMAGES", "off") == "off"
