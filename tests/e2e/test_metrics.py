"""The page for Prometheus of the whole embedded service, while it is used."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from support.client import Client
from support.metrics import Page, declared, scrape, scrape_until
from support.stack import EmbeddedStack

_BIG = {"model": "shapes", "width": 256, "height": 256, "steps": 200}


@dataclass(frozen=True)
class Metrics:
    """What has moved since it was made."""

    url: str
    before: Page

    def moved(self, page: Page, name: str, **labels: str) -> float:
        return page.value(name, **labels) - self.before.value(name, **labels)

    async def until(self, amount: float, name: str, **labels: str) -> Page:
        """The page on which a counter has moved by `amount`."""
        page = await scrape_until(self.url, lambda page: self.moved(page, name, **labels) >= amount)
        assert self.moved(page, name, **labels) == amount
        return page


@pytest.fixture
async def metrics(stack: EmbeddedStack) -> Metrics:
    match = re.search(r"health_port\S*=\S*?(\d{4,5})\b", stack.new_log)
    assert match is not None
    url = f"http://127.0.0.1:{match[1]}/metrics"
    # A websocket of the test before may still be closing.
    return Metrics(url, await scrape_until(url, lambda page: page.value("sd_websocket_clients") == 0))


async def test_a_finished_task_is_counted_once_with_its_stages(session: Client, metrics: Metrics) -> None:
    async with session.events() as events:
        task_id = await session.submit(prompt="x", model="tiny", steps=3, width=64, height=64)
        await events.until(task_id, "finished")
    page = await metrics.until(1, "sd_jobs_total", kind="txt2img", ending="finished")
    for event_type in ("pending", "started", "finished"):
        assert metrics.moved(page, "sd_task_events_total", event_type=event_type) == 1
    assert metrics.moved(page, "sd_task_seconds_count", kind="txt2img") == 1
    for stage in ("queue", "encode", "denoise", "decode", "upload"):
        assert metrics.moved(page, "sd_task_stage_seconds_count", stage=stage) == 1
    assert metrics.moved(page, "sd_pass_seconds_count", stage="denoise") >= 3
    assert metrics.moved(page, "sd_pass_rows_total", stage="denoise") >= 3
    assert metrics.moved(page, "sd_pass_max_rows_total", stage="denoise") >= metrics.moved(
        page, "sd_pass_rows_total", stage="denoise"
    )
    assert metrics.moved(page, "sd_pass_seconds_count", stage="decode") == 1
    assert metrics.moved(page, "sd_queue_wait_seconds_count", lane="first") == 1
    assert metrics.moved(page, "sd_s3_request_seconds_count", operation="put") == 1
    assert metrics.moved(page, "sd_http_requests_total", method="POST", route="/task", status="200") == 1
    assert metrics.moved(page, "sd_http_request_seconds_count", route="/task") == 1
    assert page.value("sd_samples") == page.value("sd_waiting_tasks") == 0
    assert page.value("sd_models") >= 1
    assert page.value("sd_models_bytes") > 0


async def test_a_task_whose_model_is_not_there_is_counted_as_aborted(session: Client, metrics: Metrics) -> None:
    async with session.events() as events:
        task_id = await session.submit(prompt="x", model="nowhere-to-be-found")
        await events.until(task_id, "aborted")
    page = await metrics.until(1, "sd_jobs_total", kind="txt2img", ending="aborted")
    assert metrics.moved(page, "sd_task_events_total", event_type="aborted", code="model_unavailable") == 1
    assert metrics.moved(page, "sd_model_load_failures_total") == 1


async def test_a_task_that_its_user_aborts_while_it_runs_had_ended_for_its_worker(
    session: Client, metrics: Metrics
) -> None:
    async with session.events("&progress=1") as events:
        task_id = await session.submit(prompt="x", **_BIG)
        while (event := await events.next())["event_type"] != "progress" or event["step"] == 0:
            pass
        page = await scrape(metrics.url)
        assert page.value("sd_samples") == 1
        assert (await session.delete(f"/task/{task_id}")).status == 204
    page = await metrics.until(1, "sd_jobs_total", kind="txt2img", ending="had_ended")
    assert metrics.moved(page, "sd_task_events_total", event_type="aborted", code="cancelled") == 1
    assert metrics.moved(page, "sd_jobs_total", kind="txt2img", ending="finished") == 0


async def test_requests_are_counted_by_the_pattern_of_their_path(session: Client, metrics: Metrics) -> None:
    assert (await session.get("/task/no-such-task")).status == 404
    assert (await session.get("/no/such/path/at-all")).status == 404
    assert (await session.post("/task", json={"prompt": "x", "steps": 0})).status == 422
    assert (await session.request("PROPFIND", "/task")).status == 405
    page = await scrape(metrics.url)
    assert metrics.moved(page, "sd_http_requests_total", method="GET", route="/task/{task_id}", status="404") == 1
    assert metrics.moved(page, "sd_http_requests_total", method="GET", route="unmatched", status="404") == 1
    assert metrics.moved(page, "sd_http_requests_total", method="POST", route="/task", status="422") == 1
    assert metrics.moved(page, "sd_http_requests_total", method="other", route="unmatched", status="405") == 1
    assert "at-all" not in page.text
    assert "no-such-task" not in page.text
    assert "PROPFIND" not in page.text


async def test_websockets_are_counted_while_they_are_open(session: Client, metrics: Metrics) -> None:
    async with session.events():
        await scrape_until(metrics.url, lambda page: metrics.moved(page, "sd_websocket_clients") == 1)
    page = await metrics.until(1, "sd_http_requests_total", method="GET", route="/events", status="101")
    assert metrics.moved(page, "sd_websocket_clients") == 0
    assert metrics.moved(page, "sd_http_request_seconds_count", route="/events") == 0


async def test_a_websocket_that_is_refused_is_counted(client: Client, metrics: Metrics) -> None:
    client.token = "no-token"
    async with client.events() as events:
        assert (await events.socket.receive()).data == 1008
    page = await scrape(metrics.url)
    assert metrics.moved(page, "sd_websocket_closes_total", reason="refused") == 1
    assert page.value("sd_websocket_clients") == metrics.before.value("sd_websocket_clients")


async def test_requests_to_auth_are_counted_by_their_outcome(client: Client, metrics: Metrics) -> None:
    answer = await client.post("/token", data={"username": "gertrude", "password": "wrong-password"})
    assert answer.status == 401
    page = await metrics.until(1, "sd_auth_requests_total", operation="log_in", outcome="refused")
    assert metrics.moved(page, "sd_auth_request_seconds_count", operation="log_in") == 1
    assert "gertrude" not in page.text


async def test_the_page_tells_what_waits(session: Client, metrics: Metrics) -> None:
    tasks = [await session.submit(prompt="x", **_BIG) for _ in range(3)]
    page = await scrape_until(metrics.url, lambda page: bool(page.labels("sd_backlog_jobs")))
    assert metrics.moved(page, "sd_unfinished_tasks") == 3
    keys = {dict(labels)["model_key"] for labels in page.labels("sd_backlog_jobs")}
    assert len(keys) == 1
    assert keys.pop().startswith("shapes-")
    for task_id in tasks:
        await session.delete(f"/task/{task_id}")
    await scrape_until(
        metrics.url,
        lambda page: not page.labels("sd_backlog_jobs") and metrics.moved(page, "sd_unfinished_tasks") == 0,
    )


async def test_the_page_has_what_is_documented_and_names_nobody(session: Client, metrics: Metrics) -> None:
    task_id = await session.submit(prompt="an unheard-of prompt", model="tiny", steps=1, width=64, height=64)
    page = await metrics.until(1, "sd_jobs_total", kind="txt2img", ending="finished")
    user, its_session = session.user_and_session
    assert not [word for word in (task_id, its_session, f'"{user}"', "unheard-of") if word in page.text]
    shown = {family.name: family for family in page.families if family.name.startswith("sd_")}
    known = {metric.name.removesuffix("_total"): metric for group in declared().values() for metric in group}
    assert shown.keys() == known.keys()
    for name, family in shown.items():
        assert (family.type, family.documentation) == (known[name].type, known[name].help)
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert labels <= {frozenset(known[name].labels)}, name
    assert page.value("sd_workers") == 1
    for part in ("event_loop", "nats", "s3", "auth"):
        assert page.value("sd_part_ready", part=part) == 1
    assert page.value("process_resident_memory_bytes") > 0


async def test_the_public_port_shows_no_metrics(session: Client) -> None:
    assert (await session.get("/metrics")).status == 404
