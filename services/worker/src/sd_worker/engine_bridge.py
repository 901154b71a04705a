"""The engine, for code on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.reports import KnownModel, MemoryUse, ModelsHere, ModelsView, Workload
from sd_worker.engine.tasks import Cancelled, EngineTask, Outcome, Progress

#: No more jobs are taken once one step of every task would need more passes than this: a full one, and a little that
#: waits to replace what ends.
_MOST_PASSES = 1.25


class EngineLike(Protocol):
    """What is asked of the engine. Its methods return at once."""

    @property
    def models(self) -> ModelsView: ...
    def start(self) -> None: ...
    def submit(self, task: EngineTask) -> None: ...
    def cancel(self, task_id: str) -> None: ...
    def drain(self) -> None: ...
    def stop(self, timeout_s: float) -> bool: ...
    def has_failed(self) -> bool: ...


#: Makes the engine, given whom it tells of progress, outcomes and what it has to do.
CreateEngine = Callable[
    [Callable[[Progress], None], Callable[[Outcome], None], Callable[[Workload], None]],
    EngineLike,
]


class EngineBridge:
    """Runs tasks on the engine, whose callbacks come from its thread."""

    def __init__(self, create_engine: CreateEngine) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._listeners: dict[str, Callable[[Progress], None]] = {}
        self._workload = Workload()
        self._num_submitted = 0
        self._below_model_dir: tuple[str, ...] = ()
        self._num_coming = 0
        self._changed = asyncio.Event()
        self._failed = asyncio.Event()
        self._told: deque[tuple[Callable[..., None], object]] = deque()
        self._is_waking = False
        self._engine = create_engine(
            lambda progress: self._on_loop(self._on_progress, progress),
            lambda outcome: self._on_loop(self._on_outcome, outcome),
            lambda workload: self._on_loop(self._on_workload, workload),
        )

    def start(self) -> None:
        self._engine.start()

    @property
    def workload(self) -> Workload:
        """What the engine has to do, as far as it has told."""
        return self._workload

    def memory(self) -> MemoryUse:
        """What the models in memory take up. Any thread may call it."""
        return self._engine.models.memory()

    async def wait_for_room(self) -> None:
        """Return when the engine could soon start one more task."""
        while not self._has_room():
            self._changed.clear()
            await self._changed.wait()

    def expect(self) -> Callable[[], None]:
        """Keep room for a task that is on its way here. The returned function says that it has come, or will not."""
        self._num_coming += 1
        is_expected = True

        def has_come() -> None:
            nonlocal is_expected
            if is_expected:
                is_expected = False
                self._num_coming -= 1
                self._changed.set()

        return has_come

    async def run(self, task: EngineTask, on_progress: Callable[[Progress], None]) -> Outcome:
        """Run `task` to its outcome. `on_progress` is called on the event loop."""
        try:
            self._engine.submit(task)  # what it tells comes in later turns of the loop
        except EngineStopped:
            return Cancelled(task.task_id)
        self._num_submitted += 1
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._outcomes[task.task_id] = future
        self._listeners[task.task_id] = on_progress
        try:
            return await future
        finally:
            del self._outcomes[task.task_id], self._listeners[task.task_id]

    def has_failed(self) -> bool:
        """Whether the engine can do nothing any more."""
        return self._engine.has_failed()

    async def wait_until_failed(self) -> None:
        """Return once the engine can do nothing any more."""
        await self._failed.wait()

    def cancel(self, task_id: str) -> None:
        """The task's outcome will be `Cancelled`, unless it has one already."""
        self._engine.cancel(task_id)

    def drain(self) -> None:
        """The outcome of tasks that have not begun will be `Cancelled`, and of those that come."""
        self._engine.drain()

    def resident_models(self) -> Sequence[str]:
        """Names of the models in memory, the most recently used last."""
        return self._engine.models.resident()

    def models_here(self) -> ModelsHere:
        """Names of the models in memory, of those that are fetched, and of others below MODEL_DIR by the last
        `known_models`."""
        return ModelsHere(self._engine.models.resident(), self._engine.models.fetching(), self._below_model_dir)

    async def known_models(self) -> Sequence[KnownModel]:
        """The models at hand: in memory, or below MODEL_DIR."""
        known = await asyncio.to_thread(self._engine.models.known)
        self._below_model_dir = tuple(model.name for model in known if not model.is_resident)
        return known

    async def stop(self, timeout_s: float) -> None:
        """Cancel what runs, and end."""
        await asyncio.to_thread(self._engine.stop, timeout_s)

    def _has_room(self) -> bool:
        workload = self._workload
        if workload.waits_for_memory:
            return False
        # What the engine tells may be from before it took the last ones.
        num_coming = self._num_coming + self._num_submitted - workload.num_taken
        taken = workload.passes + num_coming * workload.passes_per_task
        return taken == 0 or taken + workload.passes_per_task <= _MOST_PASSES

    def _on_loop(self, call: Callable[..., None], argument: object) -> None:
        """Called from the engine's thread. The samples of a pass tell all at once: the loop is woken once for them."""
        self._told.append((call, argument))
        if not self._is_waking and not self._loop.is_closed():
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._take_what_was_told)

    def _take_what_was_told(self) -> None:
        self._is_waking = False  # before what is there is taken: what comes from now on wakes the loop again
        try:
            while self._told:
                call, argument = self._told.popleft()
                call(argument)
        finally:
            if self._told:  # one has raised
                self._loop.call_soon(self._take_what_was_told)

    def _on_workload(self, workload: Workload) -> None:
        self._workload = workload
        self._changed.set()
        if self._engine.has_failed():  # with its last words, that there is no room any more
            self._failed.set()

    def _on_progress(self, progress: Progress) -> None:
        if listener := self._listeners.get(progress.task_id):
            listener(progress)

    def _on_outcome(self, outcome: Outcome) -> None:
        future = self._outcomes.get(outcome.task_id)
        if future is not None and not future.done():
            future.set_result(outcome)
