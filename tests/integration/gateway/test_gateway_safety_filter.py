"""`SAFETY_FILTER=required`, as clients of a gateway meet it."""

from __future__ import annotations

import pytest
from integration.gateway.conftest import StartGateway

from sd_common.nats_client import NatsClient
from support.client import Client
from support.jobs import num_jobs

_PROBLEM = "The operator requires the safety filter: leave this out, or give true"


async def test_a_task_that_turns_a_required_safety_filter_off_is_refused(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway(safety_filter="required")
    async with Client(url) as client:
        query = {"prompt": "x", "safety_filter": "false"}
        for answer in (
            await client.get("/txt2img", params=query),
            await client.post("/task", json={"prompt": "x", "safety_filter": False}),
        ):
            assert answer.status == 422
            assert answer.json["errors"] == [{"field": "safety_filter", "detail": _PROBLEM}]
    assert await num_jobs(nats_client) == 0


@pytest.mark.parametrize(
    ("setting", "parameters"),
    [("required", {}), ("required", {"safety_filter": True}), ("optional", {"safety_filter": False})],
)
async def test_other_tasks_are_taken(start_gateway: StartGateway, setting: str, parameters: dict[str, bool]) -> None:
    _, url = await start_gateway(safety_filter=setting)
    async with Client(url) as client:
        task_id = await client.submit(prompt="x", **parameters)
        assert (await client.last_event(task_id))["event_type"] == "pending"
