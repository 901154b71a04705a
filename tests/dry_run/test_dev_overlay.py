"""The overlay for development without a cluster: one server of NATS, and a stranger who makes a picture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.rendered import DEV
from dry_run.cluster import Cluster
from dry_run.pods import Pod

from support.client import Client

_READY_WITHIN_S = 120.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """All started at once, as by `kubectl apply`, and ready."""
    with Cluster(DEV, tmp_path_factory.mktemp("dev")) as cluster:
        provision, *pods = [cluster.start(name) for name in ("provision", "auth", "gateway", "worker")]
        assert provision.process.wait(_READY_WITHIN_S) == 0, provision.process.log
        for pod in pods:
            pod.wait_until_ready(_READY_WITHIN_S)
        assert len(cluster.nats) == 1
        yield pods[1]


async def test_a_stranger_makes_a_picture_with_the_default_model(gateway: Pod) -> None:
    async with Client(f"http://127.0.0.1:{gateway.port('http')}") as client:
        await client.take_public_token()
        async with client.events() as events:
            *_, last = await events.of_task(await client.submit(prompt="a red circle", steps=4))
        assert last["event_type"] == "finished"
        picture = await client.picture(last["result"]["blob_url"].removeprefix("http://localhost:8000"))
        assert picture.size == (192, 192)
