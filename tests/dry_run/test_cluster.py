"""The production overlay without a cluster: its containers as processes, on three NATS servers (see `cluster`)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from contract.rendered import PRODUCTION, of_kind
from dry_run.cluster import Cluster
from dry_run.keda import metric_of
from dry_run.pods import Pod

from sd_common.streams import EVENTS, JOBS
from support.client import Client, Events, Json
from support.operations_page import section
from support.waiting import until

#: Of pods that start side by side, on a machine that does other things too.
_READY_WITHIN_S = 120.0
#: The job of a lost worker is given to another after JOB_ACK_WAIT_S, which is 30.
_ENDS_WITHIN_S = 120.0
#: What servers of NATS know of the leader's streams.
_FOLLOW_WITHIN_S = 60.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The servers, provisioned."""
    with Cluster(PRODUCTION, tmp_path_factory.mktemp("cluster")) as cluster:
        job = cluster.start("provision")
        assert job.process.wait(_READY_WITHIN_S) == 0, job.process.log
        yield cluster


@pytest.fixture(scope="module")
def services(cluster: Cluster) -> dict[str, Pod]:
    """auth and a gateway, ready. No worker: there is no task yet."""
    pods = {name: cluster.start(name) for name in ("auth", "gateway")}
    for pod in pods.values():
        pod.wait_until_ready(_READY_WITHIN_S)
    return pods


@pytest.fixture(scope="module")
def workers(cluster: Cluster, services: dict[str, Pod]) -> list[Pod]:
    """Two, ready."""
    pods = [cluster.start("worker") for _ in range(2)]
    for pod in pods:
        pod.wait_until_ready(_READY_WITHIN_S)
    return pods


def _url(gateway: Pod) -> str:
    return f"http://127.0.0.1:{gateway.port('http')}"


@pytest_asyncio.fixture
async def client(services: dict[str, Pod]) -> AsyncIterator[Client]:
    """A user who has just signed up."""
    async with Client(_url(services["gateway"])) as client:
        await client.sign_up_and_log_in(f"user-{secrets.token_hex(4)}")
        yield client


def _task(**parameters: object) -> Json:
    """Of the overlay's default model."""
    return {"params_type": "txt2img", "prompt": "a red circle on a blue background", **parameters}


async def test_keda_reads_the_true_backlog_at_every_server(cluster: Cluster, client: Client) -> None:
    """Also where no worker runs: from this it scales up from none."""
    [trigger] = of_kind(PRODUCTION, "ScaledObject")["worker"]["spec"]["triggers"]

    def read() -> set[float]:
        return {metric_of(trigger, f"127.0.0.1:{server.port('monitor')}") for server in cluster.nats}

    assert read() == {0.0}
    tasks = [await client.submit(**_task()) for _ in range(3)]
    await until(lambda: read() == {3.0}, _FOLLOW_WITHIN_S)  # those that follow are a moment behind the leader
    for task_id in tasks:
        await client.delete(f"/task/{task_id}")
    await until(lambda: read() == {0.0}, _FOLLOW_WITHIN_S)


def test_every_probe_answers(cluster: Cluster, services: dict[str, Pod], workers: list[Pod]) -> None:
    for pod in (*cluster.nats, *services.values(), *workers):
        assert len(pod.probes) == 3
        assert [probe for probe in pod.probes if not pod.is_answered(probe)] == [], pod.name


def test_every_server_of_nats_tells_operators_who_leads(cluster: Cluster) -> None:
    """What `docs/operations.md` has them ask, and look at in the answers."""
    asked = dict.fromkeys(re.findall(r"http://127\.0\.0\.1:8222(/[^\s\"]+)", section("Asking NATS")))
    names = {server.name for server in cluster.nats}
    for server in cluster.nats:
        health, streams = (_json_of(f"http://127.0.0.1:{server.port('monitor')}{path}") for path in asked)
        assert health == {"status": "ok"}
        assert streams["meta_cluster"]["leader"] in names
        assert streams["config"]["max_storage"] > streams["storage"]
        [account] = streams["account_details"]
        clusters = {stream["name"]: stream["cluster"] for stream in account["stream_detail"]}
        assert {JOBS, EVENTS} <= set(clusters)
        for each in clusters.values():
            assert each["leader"] in names
            assert {"current"} <= set(each["replicas"][0])


def _json_of(url: str) -> Json:
    with urllib.request.urlopen(url, timeout=10) as answer:
        told: Json = json.load(answer)
    return told


def test_prometheus_finds_metrics_of_every_service(services: dict[str, Pod], workers: list[Pod]) -> None:
    [endpoint] = of_kind(PRODUCTION, "PodMonitor")["stable-diffusion-api"]["spec"]["podMetricsEndpoints"]
    for pod in (*services.values(), *workers):
        url = f"http://127.0.0.1:{pod.port(endpoint['port'])}{endpoint['path']}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"sd_part_ready" in answer.read(), pod.name


async def test_a_task_goes_through(client: Client, workers: list[Pod]) -> None:
    async with client.events() as events:
        task_id = await client.submit(**_task(steps=4))
        *_, last = await events.of_task(task_id)
    assert last["event_type"] == "finished"
    assert last["result"]["parameters_used"]["model"] == "shapes"
    blob_url = last["result"]["blob_url"]
    assert blob_url.startswith("https://sd.example.org/blob/"), "where the ingress of the overlay is"
    picture = await client.picture(blob_url.removeprefix("https://sd.example.org"))
    assert picture.size == (192, 192)


async def test_a_drained_gateway_answers_the_requests_under_way(
    cluster: Cluster, client: Client, workers: list[Pod]
) -> None:
    gateway = cluster.start("gateway")
    await asyncio.to_thread(gateway.wait_until_ready, _READY_WITHIN_S)
    await asyncio.to_thread(gateway.pre_stop)  # load balancers that do not know yet still send requests
    async with Client(_url(gateway), client.token) as other, client.events() as events:
        answering = asyncio.create_task(other.get("/txt2img", params=_without_type(_task(steps=50))))
        event = await events.next()
        await events.until(event["task_id"], "started")
        assert await asyncio.to_thread(gateway.terminate) == 0
        assert (await answering).status == 200


def _without_type(parameters: Json) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items() if name != "params_type"}


async def _until_it_runs(events: Events, task_id: str) -> None:
    """One that has not begun is handed back by a worker that is drained."""
    while (await events.until(task_id, "progress"))["stage"] != "denoising":
        pass


async def test_no_task_is_lost_nor_run_twice_to_its_end_when_one_worker_is_lost_and_another_drained(
    cluster: Cluster, client: Client, workers: list[Pod]
) -> None:
    """A server of NATS is drained meanwhile. The new worker is the one that the Deployment would start.

    The lost worker's task may come to the drained one before it is told to stop, where what is before that took longer
    than JOB_ACK_WAIT_S: the server may still give the second job to a worker that has just been lost.
    """
    by_pid = {str(pod.process.pid): pod for pod in workers}

    def worker_of(event: Json) -> Pod:
        return by_pid[event["worker"].split("-")[-2]]

    async with client.events("&progress=1") as events:
        first = await client.submit(**_task(steps=250))
        lost = worker_of(await events.until(first, "started"))
        await _until_it_runs(events, first)
        lost.kill()
        second = await client.submit(**_task(steps=100))
        drained = worker_of(await events.until(second, "started"))
        assert drained is not lost
        await _until_it_runs(events, second)
        new = cluster.start("worker")
        by_pid[str(new.process.pid)] = new
        codes = await asyncio.gather(
            asyncio.to_thread(drained.stop), asyncio.to_thread(cluster.stop_nats, cluster.nats[-1])
        )
        assert tuple(codes) == (0, 0)
    told: dict[str, list[str | Pod]] = {first: [], second: []}
    async with asyncio.timeout(_ENDS_WITHIN_S), client.events("&since=0") as events:
        while not all("finished" in of_task for of_task in told.values()):
            event = await events.next()
            kind = event["event_type"]
            told[event["task_id"]].append(worker_of(event) if kind == "started" else kind)
    # A server that goes takes messages with it that tell of a job in progress: it may be given out once more.
    for task_id, worker in ((first, lost), (second, drained)):
        assert told[task_id][:2] == ["pending", worker]
        assert told[task_id][-2:] in ([drained, "finished"], [new, "finished"])
