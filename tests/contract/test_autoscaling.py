"""What scales by itself, by the manifests' numbers."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from contract.manifests import Document
from contract.rendered import (
    BASE,
    PRODUCTION,
    container_of,
    of_kind,
    ports_of,
    seconds_to_start,
    workloads,
)


def _scaled_object() -> Document:
    [scaled_object] = of_kind(PRODUCTION, "ScaledObject").values()
    spec: Document = scaled_object["spec"]
    return spec


def test_nobody_but_the_autoscalers_sets_the_replicas_of_what_they_scale() -> None:
    [scaler] = of_kind(BASE, "HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "gateway")
    assert "replicas" not in workloads(BASE)["gateway"]["spec"]
    assert _scaled_object()["scaleTargetRef"]["name"] == "worker"
    assert "replicas" not in workloads(PRODUCTION)["worker"]["spec"]


def test_gateways_scale_on_a_share_of_the_cpu_that_they_ask_for() -> None:
    [scaler] = of_kind(BASE, "HorizontalPodAutoscaler").values()
    [metric] = scaler["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    assert "cpu" in container_of(workloads(BASE)["gateway"])["resources"]["requests"]
    assert scaler["spec"]["minReplicas"] >= 2


def test_workers_scale_from_none_and_stay_for_as_long_as_a_model_may_take_to_load() -> None:
    spec = _scaled_object()
    assert spec["minReplicaCount"] == 0
    assert spec["cooldownPeriod"] >= seconds_to_start(workloads(PRODUCTION)["worker"])


def test_the_last_job_is_enough_to_keep_a_worker() -> None:
    """None of them waits for a number of others."""
    [trigger] = _scaled_object()["triggers"]
    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"]["activationTargetValue"] == "0"


def test_keda_asks_the_monitoring_port_of_nats_in_the_namespace() -> None:
    [trigger] = _scaled_object()["triggers"]
    url = urlsplit(trigger["metadata"]["url"])
    [namespace] = of_kind(PRODUCTION, "Namespace")
    assert url.hostname == f"nats.{namespace}.svc.cluster.local"
    assert url.port == ports_of(workloads(PRODUCTION)["nats"])["monitor"]
    assert parse_qs(url.query)["streams"] == ["true"]
