"""Three nats-servers keep three copies of every stream, and the one that leads is killed under load."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError

from chaos import evidence
from chaos.disturbances import Happened
from chaos.fleet import running_fleet_over_cluster
from chaos.load import Load
from chaos.report import print_broken_promises, print_outcome
from chaos.run import run_under_load
from support.nats_cluster import nats_cluster_with_users
from support.waiting import once, until

_STREAMS = ("JOBS", "EVENTS")
_HEALS_WITHIN_S = 60.0
_NUM_TASKS_AFTER = 6


@pytest.mark.timeout(600)
async def test_a_killed_leader_of_the_streams_loses_and_doubles_nothing(tmp_path: Path, model_dir: Path) -> None:
    """Submissions ride through, or get 503 or 429 with `Retry-After` and succeed when they are tried again."""
    with nats_cluster_with_users() as cluster, running_fleet_over_cluster(tmp_path, model_dir, cluster) as fleet:

        async def kill_leaders(load: Load) -> list[Happened]:
            client = await evidence.connect(fleet)
            try:
                for stream in _STREAMS:
                    await _until_accepted(load, _NUM_TASKS_AFTER)
                    leader = await _leader_of(client, stream)
                    killed_at = time.monotonic()
                    await fleet.do(fleet.parts[leader].kill)
                    await _until_accepted(load, _NUM_TASKS_AFTER)
                    print(
                        f"{leader}, which led {stream}, was killed: {_NUM_TASKS_AFTER} tasks were accepted within "
                        f"{time.monotonic() - killed_at:.1f} s"
                    )
                    await fleet.do(fleet.parts[leader].start)
                    await _until_whole(client)
            finally:
                await client.close()
            return []

        outcome = await run_under_load(fleet, 0, kill_leaders, num_clients=4)
    print_outcome(outcome)
    print_broken_promises(outcome.broken_promises)
    assert not outcome.broken_promises
    assert [broken for broken in outcome.load.client.unanswered if broken.why[:3] not in ("429", "503")] == []


async def _until_accepted(load: Load, num_more: int) -> None:
    """Return when so many more tasks were accepted."""
    wanted = len(load.accepted) + num_more
    await until(lambda: len(load.accepted) >= wanted, _HEALS_WITHIN_S)


async def _leader_of(client: Nats, stream: str) -> str:
    """The node that leads a stream."""
    cluster = (await client.jetstream().stream_info(stream)).cluster
    assert cluster is not None
    assert cluster.leader is not None
    return cluster.leader


async def _until_whole(client: Nats) -> None:
    """Return when every copy of every stream is up to date."""
    await once(lambda: asyncio.gather(*(_is_whole(client, stream) for stream in _STREAMS)), all, _HEALS_WITHIN_S)


async def _is_whole(client: Nats, stream: str) -> bool:
    try:
        cluster = (await client.jetstream().stream_info(stream)).cluster
    except NatsError:
        return False
    if cluster is None or cluster.leader is None or cluster.replicas is None:
        return False
    return all(replica.current and not replica.offline for replica in cluster.replicas)
