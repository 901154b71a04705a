"""The services as processes: their spans at a collector, and the lines that they log."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support import servers
from support.client import Client
from support.collector import Collector, serve_collector
from support.deployment import Deployment
from support.servers import S3Server

_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_TRACEPARENT = {"traceparent": f"00-{_TRACE_ID}-b7ad6b7169203331-01"}
_PROMPT = "a private corgi"


@dataclass(frozen=True)
class Ran:
    """A task went through processes that have ended since."""

    task_id: str
    secrets: tuple[str, ...]
    collector: Collector
    deployment: Deployment

    def lines(self, service: str, event: str) -> list[dict[str, Any]]:
        """What the service logged of this event."""
        logged = [json.loads(line) for line in self.deployment.services[service].log.splitlines() if line[:1] == "{"]
        return [line for line in logged if line["event"] == event]


@pytest.fixture(scope="module")
def ran(backend: str, s3_server: S3Server, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    minio = s3_server.minio_settings(f"test-{secrets.token_hex(8)}")
    with servers.nats_server(on=backend) as nats, serve_collector() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
        deployment = Deployment(tmp_path_factory.mktemp("deployment"), nats, minio, model_dir, env)
        try:
            deployment.provision()
            deployment.start_auth()
            deployment.start_worker("worker")
            deployment.start_gateway()
            deployment.services["auth"].wait_for_log("auth_started")
            task_id, token = asyncio.run(_run_task(deployment.gateway_url()))
            for service in deployment.services.values():
                assert service.process.terminate(timeout_s=60) == 0, service.log
        finally:
            deployment.stop()
        yield Ran(task_id, (token, minio.minio_secret_key.get_secret_value()), collector, deployment)


async def _run_task(url: str) -> tuple[str, str]:
    """The id of a finished task, and the token that it was submitted with."""
    async with Client(url) as client:
        await client.until_ready()
        await client.take_public_token()
        assert client.token is not None
        wanted = {"prompt": _PROMPT, "model": "tiny", "steps": 2, "width": 64, "height": 64}
        async with client.events() as events:
            answer = await client.post("/task", json=wanted, headers=_TRACEPARENT, params={"token": client.token})
            assert (await events.of_task(answer.json))[-1]["event_type"] == "finished"
        return answer.json, client.token


def test_spans_reach_the_collector_by_when_the_services_have_stopped(ran: Ran) -> None:
    trace = ran.collector.of_trace(_TRACE_ID)
    named = {each.span.name: each for each in trace}
    request, published, job = (named[name] for name in ("POST /task", "publish JOBS", "process JOBS"))
    assert (request.service, job.service) == ("sd-gateway", "sd-worker")
    assert request.span.parent_span_id.hex() == "b7ad6b7169203331"
    assert published.span.parent_span_id == request.span.span_id
    assert job.span.parent_span_id == published.span.span_id
    assert named["publish EVENTS finished"].span.parent_span_id == job.span.span_id
    assert {"queue", "load", "encode", "denoise", "decode", "upload"} <= set(named)
    assert {each.service for each in ran.collector.spans} == {"sd-gateway", "sd-worker", "sd-auth"}
    for each in ran.collector.spans:
        assert each.resource["service.version"] == version(each.service)
        assert each.resource["deployment.environment.name"] == "test"
    assert b"corgi" not in b"".join(each.span.SerializeToString() for each in ran.collector.spans)


def test_the_lines_of_a_request_and_of_its_job_lead_to_the_trace_and_the_task(ran: Ran) -> None:
    both = {"level": "info", "task_id": ran.task_id, "trace_id": _TRACE_ID, "user": "all"}
    [line] = [line for line in ran.lines("gateway", "request") if line["route"] == "/task"]
    assert isinstance(line.pop("ms"), float)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line.pop("time"))
    told = {"event": "request", "service": "gateway", "method": "POST", "route": "/task", "status": 200}
    assert line == {**both, **told}
    [line] = ran.lines("worker", "job")
    timings = {f"{stage}_s" for stage in ("queue", "load", "encode", "denoise", "decode", "upload")}
    assert all(isinstance(line.pop(name), float) for name in timings)
    assert isinstance(line.pop("ms"), int)
    assert line.pop("time")
    told = {"event": "job", "service": "worker", "ending": "finished", "kind": "txt2img", "model": "tiny"}
    assert line == {**both, **told, "attempt": 1, "delivery": 1}


def test_the_line_of_a_request_to_auth_is_in_the_trace_of_the_http_request(ran: Ran) -> None:
    [http] = [line for line in ran.lines("gateway", "request") if line["route"] == "/token/all"]
    [auth] = [line for line in ran.lines("auth", "auth_request") if line["operation"] == "public_token"]
    assert auth["trace_id"] == http["trace_id"] != _TRACE_ID


def test_no_line_holds_what_is_secret_or_private(ran: Ran) -> None:
    for service in ran.deployment.services.values():
        for secret in (_PROMPT, *ran.secrets):
            assert secret not in service.log
