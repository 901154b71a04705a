"""Where a queued task stands, as a client of a gateway is told."""

from __future__ import annotations

from integration.gateway.conftest import StartGateway

from support.client import Client


async def test_a_pending_task_tells_its_position_until_it_has_started_or_ended(
    start_gateway: StartGateway,
) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        task_ids = [await client.submit(prompt="x", model="shapes") for _ in range(3)]
        told = [await client.last_event(task_id) for task_id in task_ids]
        assert [event["position"] for event in told] == [1, 2, 3]
        assert all(event["event_type"] == "pending" and event["sequence"] > 0 for event in told)
        await client.delete(f"/task/{task_ids[1]}")
        assert "position" not in await client.last_event(task_ids[1])
        assert (await client.last_event(task_ids[2]))["position"] == 2
