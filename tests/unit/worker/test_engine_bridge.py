"""When the worker takes another job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from sd_common.parameters import Txt2ImgParameters
from sd_worker.engine.reports import KnownModel, MemoryUse, Workload
from sd_worker.engine.tasks import Cancelled, EngineTask, Outcome, Progress
from sd_worker.engine_bridge import EngineBridge


class NoModels:
    def resident(self) -> Sequence[str]:
        return ()

    def fetching(self) -> Sequence[str]:
        return ()

    def known(self) -> Sequence[KnownModel]:
        return ()

    def memory(self) -> MemoryUse:
        return MemoryUse(0, 0)


class ToldEngine:
    """Does what the test says."""

    models = NoModels()

    def __init__(
        self,
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[Outcome], None],
        on_workload: Callable[[Workload], None],
    ) -> None:
        self.on_outcome = on_outcome
        self.on_workload = on_workload
        self.submitted: list[EngineTask] = []

    def start(self) -> None: ...
    def submit(self, task: EngineTask) -> None:
        self.submitted.append(task)

    def cancel(self, task_id: str) -> None: ...
    def drain(self) -> None: ...
    def stop(self, timeout_s: float) -> bool:
        return True

    def has_failed(self) -> bool:
        return False


def _bridge() -> tuple[EngineBridge, ToldEngine]:
    engines: list[ToldEngine] = []

    def create(
        on_progress: Callable[[Progress], None],
        on_outcome: Callable[[Outcome], None],
        on_workload: Callable[[Workload], None],
    ) -> ToldEngine:
        engines.append(ToldEngine(on_progress, on_outcome, on_workload))
        return engines[0]

    return EngineBridge(create), engines[0]


async def _has_room(bridge: EngineBridge) -> bool:
    waiting = asyncio.ensure_future(bridge.wait_for_room())
    for _ in range(5):  # what was told from the engine's thread is heard in the next turn of the loop
        await asyncio.sleep(0)
    if not waiting.done():
        waiting.cancel()
        return False
    return True


@pytest.mark.parametrize(
    ("workload", "has_room"),
    [
        (Workload(0.0, 1.0), True),
        (Workload(0.0, 3.0), True),  # larger than a pass: alone
        (Workload(1.0, 1.0), False),  # it would wait here, and another worker may be idle
        (Workload(0.5, 0.5), True),
        (Workload(1.0, 0.25), True),  # fills the gap when one of them ends
        (Workload(1.25, 0.25), False),
        (Workload(0.1, 0.1, waits_for_memory=True), False),  # a model that is loaded waits for those that run
    ],
)
async def test_a_job_is_taken_while_it_makes_little_more_than_a_full_pass(workload: Workload, has_room: bool) -> None:
    bridge, engine = _bridge()
    engine.on_workload(workload)
    assert await _has_room(bridge) is has_room


async def test_a_task_on_its_way_keeps_its_room() -> None:
    bridge, engine = _bridge()
    engine.on_workload(Workload(0.5, 0.5))
    has_come = bridge.expect()
    assert not await _has_room(bridge)
    has_come()
    has_come()  # again: nothing happens
    assert await _has_room(bridge)


async def test_a_task_that_was_submitted_counts_before_the_engine_says_so() -> None:
    bridge, engine = _bridge()
    running = asyncio.ensure_future(
        bridge.run(EngineTask("t", Txt2ImgParameters(prompt="x"), seed=1), lambda progress: None)
    )
    await asyncio.sleep(0)
    assert not await _has_room(bridge)
    engine.on_workload(Workload(0.0, 1.0))  # from before it took the task
    assert not await _has_room(bridge)
    engine.on_workload(Workload(0.1, 0.1, num_taken=1))
    assert await _has_room(bridge)
    engine.on_outcome(Cancelled("t"))
    assert await running == Cancelled("t")
