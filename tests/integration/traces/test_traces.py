"""One trace from the HTTP request through the job to the last event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from integration.traces.conftest import Spans, trace_id_of
from integration.worker.conftest import StartWorker, Tasks
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from sd_common.abort import Aborter
from sd_common.blob_ids import new_blob_id
from sd_common.jobs import Job
from sd_common.nats_client import NatsClient
from sd_common.parameters import Txt2ImgParameters
from sd_common.streams import JOBS
from sd_common.subjects import jobs_of
from sd_common.tracing import continued_trace
from support.client import Client

_TRACE_ID, _CLIENT_SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
_TRACEPARENT = {"traceparent": f"00-{_TRACE_ID:032x}-{_CLIENT_SPAN_ID:016x}-01"}
_NOT_SAMPLED = {"traceparent": f"00-{_TRACE_ID:032x}-{_CLIENT_SPAN_ID:016x}-00"}
_SMALL: dict[str, Any] = {"model": "tiny", "steps": 3, "width": 64, "height": 64}
_JOB = "process JOBS"
_STAGES = ("encode", "denoise", "decode")


def _named(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    [span] = [each for each in spans if each.name == name]
    return span


def _has_job(spans: Sequence[ReadableSpan]) -> bool:
    return any(each.name == _JOB for each in spans)


def _is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and parent.context is not None and span.parent.span_id == parent.context.span_id


def _is_within(span: ReadableSpan, around: ReadableSpan) -> bool:
    assert span.start_time
    assert span.end_time
    assert around.start_time
    assert around.end_time
    return around.start_time <= span.start_time <= span.end_time <= around.end_time


def _seconds(span: ReadableSpan) -> float:
    assert span.start_time
    assert span.end_time
    return (span.end_time - span.start_time) / 1e9


def _attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_one_trace_leads_from_the_request_through_the_job_to_the_last_event(
    service_url: str, spans: Spans
) -> None:
    async with Client(service_url) as client:
        await client.take_public_token()
        async with client.events() as events:
            answer = await client.post("/task", json={"prompt": "x", **_SMALL}, headers=_TRACEPARENT)
            finished = (await events.of_task(answer.json))[-1]
    trace = await spans.until(_TRACE_ID, _has_job)

    request = _named(trace, "POST /task")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert request.parent.span_id == _CLIENT_SPAN_ID
    assert _attributes(request) == {
        "http.request.method": "POST",
        "http.route": "/task",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "sd.task_id": answer.json,
    }
    published = _named(trace, "publish JOBS")
    assert published.kind is SpanKind.PRODUCER
    assert _is_below(published, request)
    assert _is_below(_named(trace, "publish EVENTS pending"), request)

    job = _named(trace, _JOB)
    assert job.kind is SpanKind.CONSUMER
    assert _is_below(job, published)
    assert _attributes(job).items() >= {"sd.task_id": answer.json, "sd.ending": "finished", "sd.delivery": 1}.items()
    queue = _named(trace, "queue")
    assert _is_below(queue, published)
    assert published.start_time is not None
    assert queue.end_time is not None
    assert job.start_time is not None
    assert published.start_time < queue.end_time <= job.start_time

    engine = _named(trace, "engine")
    assert _is_below(engine, job)
    for name in ("load", *_STAGES):
        assert _is_below(_named(trace, name), engine)
        assert _is_within(_named(trace, name), job)
    for name in _STAGES:
        assert _seconds(_named(trace, name)) == pytest.approx(finished["timings"][f"{name}_s"], abs=1e-3)
    starts = [_named(trace, name).start_time or 0 for name in ("load", *_STAGES, "upload", "publish EVENTS finished")]
    assert starts == sorted(starts)
    for name in ("publish EVENTS started", "upload", "publish EVENTS finished"):
        assert _is_below(_named(trace, name), job)
        assert _is_within(_named(trace, name), job)
    assert {each.status.status_code for each in trace} == {StatusCode.UNSET}


async def test_a_request_to_the_auth_service_is_in_the_trace_of_the_http_request(
    gateway_url: str, spans: Spans
) -> None:
    async with Client(gateway_url) as client:
        await client.post("/token/all", headers=_TRACEPARENT)
    trace = await spans.until(_TRACE_ID, lambda trace: any(each.name == "POST /token/all" for each in trace))
    request = _named(trace, "POST /token/all")
    calls = {each.kind: each for each in trace if each.name == "auth.public_token"}
    assert _is_below(calls[SpanKind.CLIENT], request)
    assert _is_below(calls[SpanKind.SERVER], calls[SpanKind.CLIENT])


async def test_a_job_that_is_given_out_again_stays_in_its_trace(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, spans: Spans
) -> None:
    # What waits for room when a worker is told to stop is handed back. There is none for as long as the others run:
    # with guidance, they fill a pass.
    one = await start_worker("one", max_rows=8)
    running = []
    for number in range(4):
        running.append(await tasks.publish(f"running-{number}", steps=500))
        await tasks.wait_until_begun(f"running-{number}")
    with continued_trace(_TRACEPARENT):
        await tasks.publish("waiting", steps=2)
    await tasks.wait_for("waiting", "started")
    stopping = asyncio.create_task(one.stop())
    await tasks.wait_for("waiting", "pending")
    aborter = Aborter(nats_client, tasks.queue, tasks.log)
    for job in running:
        await aborter.abort(job.ref)
    await start_worker("two")
    await tasks.wait_for("waiting", "finished")
    await stopping
    trace = await spans.until(_TRACE_ID, lambda trace: sum(each.name == _JOB for each in trace) == 2)
    first, second = [each for each in trace if each.name == _JOB]
    published = _named(trace, "publish JOBS")
    assert _is_below(first, published)
    assert _is_below(second, published)
    assert [_attributes(each)["sd.delivery"] for each in (first, second)] == [1, 2]
    assert [_attributes(each)["sd.ending"] for each in (first, second)] == ["handed_back", "finished"]
    assert _is_within(_named(trace, "publish EVENTS finished"), second)


async def test_a_job_that_came_without_a_trace_begins_one(
    start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient, spans: Spans
) -> None:
    await start_worker()
    job = Job(
        task_id="t1",
        user="service",
        session="batch",
        blob_id=new_blob_id(),
        parameters=Txt2ImgParameters(prompt="x", **_SMALL),
    )
    await nats_client.jetstream().publish(jobs_of("tiny", "rest"), job.model_dump_json().encode())
    await tasks.wait_for("t1", "finished")
    [begun] = await spans.named(_JOB)
    assert begun.parent is None
    assert _is_below(_named(spans.of_trace(trace_id_of(begun)), "engine"), begun)


async def test_a_task_that_fails_is_told_with_its_code(service_url: str, spans: Spans) -> None:
    async with Client(service_url) as client:
        wanted = {"prompt": "x", "model": "nowhere-to-be-found"}
        await client.get("/txt2img", params=wanted, headers=_TRACEPARENT)
    trace = await spans.until(_TRACE_ID, lambda trace: {_JOB, "GET /txt2img"} <= {each.name for each in trace})
    assert _attributes(_named(trace, "publish EVENTS aborted"))["sd.code"] == "model_unavailable"
    assert _attributes(_named(trace, _JOB))["sd.ending"] == "aborted"
    assert not {"encode", "upload"} & {each.name for each in trace}
    assert _attributes(_named(trace, "GET /txt2img"))["http.response.status_code"] == 422
    assert {each.status.status_code for each in trace} == {StatusCode.UNSET}, "it is no failure of the service"


async def test_spans_hold_nothing_secret_or_private(service_url: str, spans: Spans) -> None:
    async with Client(service_url) as client:
        await client.sign_up_and_log_in("ann-of-the-test", "a very secret password")
        answer = await client.get(
            "/txt2img", params={"prompt": "a private corgi", "token": client.token, **_SMALL}, headers=_TRACEPARENT
        )
        assert answer.status == 200
        await client.get("/task/guessed-by-somebody", headers=_TRACEPARENT)
        await client.get("/no/such/path?token=in-the-query", headers=_TRACEPARENT)
    await spans.until(_TRACE_ID, _has_job)
    told = "".join(each.to_json() for each in spans.all())
    assert "GET /txt2img" in told
    for word in ("private corgi", client.token, "secret password", "ann-of-the-test", "/no/such/path", "in-the-query"):
        assert word is not None
        assert word not in told


async def test_a_trace_that_its_client_does_not_sample_is_handed_on_unrecorded(
    gateway_url: str, nats_client: NatsClient, spans: Spans
) -> None:
    async with Client(gateway_url) as client:
        await client.post("/task", json={"prompt": "x", **_SMALL}, headers=_NOT_SAMPLED)
    stored = await nats_client.jetstream().get_msg(JOBS, 1)
    assert (stored.headers or {})["traceparent"].startswith(f"00-{_TRACE_ID:032x}-")
    assert stored.headers is not None
    assert stored.headers["traceparent"].endswith("-00")
    assert spans.of_trace(_TRACE_ID) == []


async def test_a_request_of_no_route_is_named_by_its_method_alone(gateway_url: str, spans: Spans) -> None:
    async with Client(gateway_url) as client:
        await client.get("/no/such/path", headers=_TRACEPARENT)
        await client.request("PURGE", "/no/such/path", headers=_TRACEPARENT)
    trace = await spans.until(_TRACE_ID, lambda trace: len(trace) == 2)
    assert [each.name for each in trace] == ["GET", "HTTP"]
    assert [_attributes(each)["http.request.method"] for each in trace] == ["GET", "_OTHER"]
    assert [_attributes(each)["http.response.status_code"] for each in trace] == [404, 404]


async def test_neither_websockets_nor_probes_make_spans(gateway_url: str, spans: Spans) -> None:
    async with Client(gateway_url) as client:
        await client.take_public_token()
        async with client.events():
            pass
        for path in ("/healthz", "/readyz", "/models"):
            await client.get(path, headers=_TRACEPARENT)
    trace = await spans.until(_TRACE_ID, lambda trace: any(each.name == "GET /models" for each in trace))
    assert [each.name for each in trace] == ["GET /models"]
