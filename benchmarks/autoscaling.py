"""From no worker to as many as the queue needs, and back to none: real workers by the production overlay's numbers.

Every service runs as in `tests/dry_run`. What KEDA and the autoscaler would do is done here by their published
arithmetic (`dry_run.autoscaler`), on the depth that nats-server tells at the trigger's own URL. The scaler's clock runs
`SPEED` times as fast, so that its cooldown of 15 minutes is waited out in 45 s; that of the workers, which start in
seconds, does not. Prints the course.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from contract.rendered import PRODUCTION, of_kind
from dry_run.autoscaler import Autoscaler, Scaling
from dry_run.cluster import Cluster
from dry_run.keda import metric_of
from dry_run.pods import Pod
from table import print_table

from support.client import Client

SPEED = 20
NUM_TASKS = 40
STEPS = 20
READY_WITHIN_S = 300.0
LOOK_EVERY_S = 0.1
#: Seconds between rows of the table.
ROW_EVERY_S = 5.0


class Workers:
    """The Deployment: as many workers as it is told, the newest of which go first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pods: list[Pod] = []
        self._leaving: list[asyncio.Task[int]] = []

    def scale(self, replicas: int) -> None:
        while len(self._pods) < replicas:
            self._pods.append(self._cluster.start("worker"))
        while len(self._pods) > replicas:
            self._leaving.append(asyncio.create_task(asyncio.to_thread(self._pods.pop().stop)))

    async def num_ready(self) -> int:
        answers = await asyncio.gather(*(asyncio.to_thread(pod.probe, "readinessProbe") for pod in self._pods))
        return answers.count(200)

    async def exit_codes(self) -> list[int]:
        """Of all that have left."""
        return await asyncio.gather(*self._leaving)


async def course(cluster: Cluster, client: Client) -> list[list[str]]:
    """Rows, from the burst until there is no worker any more."""
    scaled_object = of_kind(PRODUCTION, "ScaledObject")["worker"]
    [trigger] = scaled_object["spec"]["triggers"]
    monitor = f"127.0.0.1:{cluster.nats[0].port('monitor')}"
    autoscaler, workers = Autoscaler(Scaling.of(scaled_object)), Workers(cluster)
    submitting = (client.submit(prompt="a red circle", model="shapes", steps=STEPS) for _ in range(NUM_TASKS))
    tasks = await asyncio.gather(*submitting)
    started_at = time.perf_counter()
    rows: list[list[str]] = []
    had_some = False
    while True:
        elapsed_s = time.perf_counter() - started_at
        depth = await asyncio.to_thread(metric_of, trigger, monitor)
        replicas = autoscaler.decide(elapsed_s * SPEED, depth)
        workers.scale(replicas)
        if len(rows) * ROW_EVERY_S <= elapsed_s or (had_some and not replicas):
            ready = await workers.num_ready()
            rows.append(
                [f"{elapsed_s:.0f}", f"{elapsed_s * SPEED / 60:.1f}", f"{depth:.0f}", f"{replicas}", f"{ready}"]
            )
        if had_some and not replicas:
            codes = await workers.exit_codes()
            assert set(codes) == {0}, codes
            events = [await client.last_event(task_id) for task_id in tasks]
            assert {event["event_type"] for event in events} == {"finished"}
            return rows
        had_some = had_some or bool(replicas)
        await asyncio.sleep(LOOK_EVERY_S)


async def main() -> None:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        Cluster(PRODUCTION, Path(directory)) as cluster,
    ):
        assert cluster.start("provision").process.wait(60) == 0
        auth, gateway = cluster.start("auth"), cluster.start("gateway")
        for pod in (auth, gateway):
            pod.wait_until_ready(READY_WITHIN_S)
        async with Client(f"http://127.0.0.1:{gateway.port('http')}") as client:
            await client.sign_up_and_log_in("bench")
            rows = await course(cluster, client)
    print_table(["s", "minutes of the scaler", "tasks in the queue", "workers wanted", "workers ready"], rows)


if __name__ == "__main__":
    asyncio.run(main())
