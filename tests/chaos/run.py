"""One run: load and disturbances together, then the verdict."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos import evidence, verdict
from chaos.balanced_client import BalancedClient
from chaos.disturbances import Disturber, Happened, plan_for
from chaos.fleet import Fleet
from chaos.followers import broken_promises_of_feeds, following, until_caught_up
from chaos.load import Load
from chaos.memory import MemoryWatch
from chaos.takeovers import takeover_times_s
from chaos.verdict import Findings

#: Seconds from the last disturbance until every task must have ended.
_SETTLES_WITHIN_S = 90.0
#: Seconds after that in which websocket clients must have been told all of it.
_CATCHES_UP_WITHIN_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What a run has shown."""

    findings: Findings
    load: Load
    happened: list[Happened]
    takeovers_s: list[float]
    #: To websocket clients.
    num_events_told: int
    memory: MemoryWatch
    broken_promises: list[str]


async def run_chaos(fleet: Fleet, seed: int, seconds: float, *, lives_on: str | None = None) -> Outcome:
    """Disturb the fleet under load for `seconds`, at random but from `seed`, and judge. The part that `lives_on` is
    never ended, so that what it gathers in a long life is seen."""

    async def disturb(_: Load) -> list[Happened]:
        disturber = Disturber(fleet)
        await disturber.carry_out(plan_for(fleet, seed, seconds, lives_on), seconds)
        return disturber.happened

    return await run_under_load(fleet, seed, disturb)


async def run_under_load(
    fleet: Fleet, seed: int, disturb: Callable[[Load], Awaitable[list[Happened]]], num_clients: int = 8
) -> Outcome:
    """Load the fleet while `disturb` runs. When all has settled, what clients know is held against what the servers
    hold."""
    client = await evidence.connect(fleet)
    memory = MemoryWatch(fleet)
    rng = random.Random(seed)
    try:
        before = await evidence.last_sequence(client)
        async with memory.watching(), BalancedClient(fleet.gateway_urls(), fleet.leaving, rng) as http:
            load = Load(http, rng, num_clients)
            await load.open_sessions()
            async with following(http, load.tokens, rng) as followers:
                async with load.running():
                    happened = await disturb(load)
                accepted = (str(task.task_id) for task in load.accepted)
                await evidence.settle(client, accepted, before, _SETTLES_WITHIN_S)
                events = await evidence.read_events(client, before)
                await until_caught_up(followers, events, _CATCHES_UP_WITHIN_S)
        left = await evidence.leftovers(client)
    finally:
        await client.close()
    broken = [
        *verdict.broken_promises_of_tasks(load.asked, events),
        *await verdict.broken_promises_of_pictures(load.asked, events, evidence.Bucket(fleet.minio_settings)),
        *verdict.broken_promises_of_leftovers(left),
        *verdict.broken_promises_of_memory(memory),
        *verdict.broken_promises_of_keys(load.asked, events),
        *broken_promises_of_feeds(followers, events),
        *load.client.wrong_answers,
    ]
    return Outcome(
        findings=verdict.findings(load.asked, events),
        load=load,
        happened=happened,
        takeovers_s=takeover_times_s(happened, events),
        num_events_told=sum(len(follower.sequences) for follower in followers),
        memory=memory,
        broken_promises=broken,
    )
