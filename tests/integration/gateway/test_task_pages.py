"""`GET /tasks`: the user's tasks, newest first, over a real task log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from integration.common.makers import aborted, finished, handed_back, new_ref, pending, started
from integration.gateway.conftest import StartGateway

from sd_common.auth_messages import PUBLIC_USER
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.task_log import NO_EVENT, TaskLog
from sd_gateway.authn import Identity
from sd_gateway.task_pages import TaskPages
from support.client import Client

_ALICE = Identity("alice", "session-1")
_MAKERS: dict[str, list[Any]] = {
    "pending": [pending],
    "started": [pending, started],
    "finished": [pending, started, finished],
    "aborted": [pending, aborted],
}


class _Tasks:
    """Appends to the log, and lists."""

    def __init__(self, nats: NatsClient) -> None:
        self.task_log = TaskLog(nats)
        self._pages = TaskPages(self.task_log)

    async def add(self, state: str, user: str = "alice", session: str = "session-1") -> str:
        ref, sequence = new_ref(user, session), NO_EVENT
        for make in _MAKERS[state]:
            sequence = await self.task_log.append(ref, make(ref), sequence)
        return ref.task_id

    async def add_at_once(self, count: int, state: str = "finished", user: str = "alice") -> None:
        await asyncio.gather(*(self.add(state, user) for _ in range(count)))

    async def listed(self, identity: Identity = _ALICE, limit: int = 20, state: Any = None) -> list[str]:
        """The tasks of all pages."""
        task_ids: list[str] = []
        before = None
        while True:
            page = await self._pages.page(identity, before=before, limit=limit, state=state)
            assert len(page.tasks) <= limit
            task_ids += [event.ref.task_id for event in page.tasks]
            before = page.next_before
            if before is None:
                return task_ids


@pytest.fixture
def tasks(nats_client: NatsClient, provisioned: NatsSettings) -> _Tasks:
    return _Tasks(nats_client)


async def test_who_has_no_tasks_gets_an_empty_page(tasks: _Tasks) -> None:
    assert await tasks.listed() == []
    await tasks.add("finished", user="bob")
    assert await tasks.listed() == []


@pytest.mark.parametrize("limit", [1, 7, 25, 100])
async def test_tasks_come_newest_first_each_once(limit: int, tasks: _Tasks) -> None:
    added = [await tasks.add(state) for _ in range(13) for state in ("finished", "aborted")]
    assert await tasks.listed(limit=limit) == added[::-1]


async def test_a_task_stands_where_it_was_submitted_and_shows_its_last_event(
    tasks: _Tasks, nats_client: NatsClient
) -> None:
    task_log = TaskLog(nats_client)
    first, second = new_ref(), new_ref()
    sequence = await task_log.append(first, pending(first), NO_EVENT)
    await task_log.append(second, pending(second), NO_EVENT)
    sequence = await task_log.append(first, started(first), sequence)
    page = await TaskPages(task_log).page(_ALICE, before=None, limit=20, state=None)
    assert [(event.ref, event.event_type) for event in page.tasks] == [(second, "pending"), (first, "started")]
    assert page.tasks[1].sequence == sequence


@pytest.mark.parametrize("state", list(_MAKERS))
async def test_tasks_are_listed_by_state(state: str, tasks: _Tasks) -> None:
    added = [(await tasks.add(other), other) for _ in range(10) for other in _MAKERS]
    expected = [task_id for task_id, other in reversed(added) if other == state]
    assert await tasks.listed(limit=3, state=state) == expected


async def test_a_rare_state_is_found_a_bounded_number_of_tasks_at_a_time(
    tasks: _Tasks, nats_client: NatsClient
) -> None:
    oldest = await tasks.add("aborted")
    await tasks.add_at_once(1200)
    first_page = await TaskPages(TaskLog(nats_client)).page(_ALICE, before=None, limit=20, state="aborted")
    assert first_page.tasks == []
    assert first_page.next_before is not None
    assert await tasks.listed(state="aborted") == [oldest]


async def test_tasks_of_others_between_are_passed_over(tasks: _Tasks) -> None:
    mine = []
    for _ in range(30):
        mine.append(await tasks.add("aborted"))
        await tasks.add_at_once(40, "pending", user="bob")
    await tasks.add_at_once(500, "pending", user="carol")
    assert await tasks.listed(limit=4) == mine[::-1]
    assert len(await tasks.listed(Identity("carol", "any"), limit=100)) == 500


async def test_pages_are_complete_while_tasks_are_added_and_go_on(tasks: _Tasks) -> None:
    before = [await tasks.add("started") for _ in range(60)]
    keep_on = True

    async def add() -> None:
        while keep_on:
            await tasks.add("finished")

    adding = asyncio.ensure_future(add())
    listed = await tasks.listed(limit=3)
    keep_on = False
    await adding
    assert len(set(listed)) == len(listed)
    assert listed[-60:] == before[::-1]


async def test_a_user_sees_all_own_sessions_and_the_public_user_only_the_own(tasks: _Tasks) -> None:
    first, second = await tasks.add("pending"), await tasks.add("pending", session="session-2")
    assert await tasks.listed() == [second, first]
    public, _ = [await tasks.add("pending", PUBLIC_USER, session) for session in ("session-1", "session-2")]
    assert await tasks.listed(Identity(PUBLIC_USER, "session-1")) == [public]


# Over HTTP


@pytest_asyncio.fixture
async def base_url(start_gateway: StartGateway) -> str:
    return (await start_gateway())[1]


async def test_a_cursor_leads_from_page_to_page(base_url: str, tasks: _Tasks) -> None:
    async with Client(base_url) as client:
        await client.take_public_token()
        added = [await tasks.add("finished", *client.user_and_session) for _ in range(5)]
        listed: list[str] = []
        query = "limit=2"
        while query:
            answer = await client.get(f"/tasks?{query}")
            assert answer.status == 200
            assert answer.headers["Cache-Control"] == "no-store"
            for event in answer.json["tasks"]:
                assert event == await client.last_event(event["task_id"])
                listed.append(event["task_id"])
            cursor = answer.json["next_cursor"]
            query = f"limit=2&cursor={cursor}" if cursor else ""
    assert listed == added[::-1]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"cursor={cursor}", "cursor") for cursor in ("", "x", "MTI%3D", "MA", "LTU", "%C3%A9", "9" * 400)),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("state=lost", "state"),
        ("state=pending&state=started", "state"),
        ("user=bob", "user"),
    ],
)
async def test_a_wrong_query_is_refused_with_the_field(query: str, field: str, base_url: str) -> None:
    async with Client(base_url) as client:
        await client.take_public_token()
        answer = await client.get(f"/tasks?{query}")
        assert answer.status == 422
        assert [error["field"] for error in answer.json["errors"]] == [field]
        assert not answer.json["detail"].startswith("Value error")


async def test_a_list_needs_a_token(base_url: str) -> None:
    """Who comes without one shares a session with others who do."""
    async with Client(base_url) as client:
        assert (await client.get("/tasks")).status == 401


async def test_a_task_that_was_handed_back_stands_where_it_was_queued_first(tasks: _Tasks) -> None:
    ref, sequence = new_ref("alice", "session-1"), NO_EVENT
    task_log = tasks.task_log
    sequence = await task_log.append(ref, pending(ref), sequence)
    newer = [await tasks.add("finished") for _ in range(3)]
    for make in (started, handed_back):
        sequence = await task_log.append(ref, make(ref), sequence)
    assert await tasks.listed(limit=1) == [*newer[::-1], ref.task_id]
    assert await tasks.listed(state="pending") == [ref.task_id]
