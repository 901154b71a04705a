"""The engine, for code on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from sd_worker.engine.tasks import EngineTask, KnownModel, Outcome, Progress


class EngineLike(Protocol):
    """What is asked of the engine. Its methods return at once, but for `known_models`, which reads files."""

    def start(self) -> None: ...
    def submit(self, task: EngineTask) -> None: ...
    def cancel(self, task_id: str) -> None: ...
    def stop(self, timeout_s: float) -> bool: ...
    def resident_models(self) -> Sequence[str]: ...
    def known_models(self) -> Sequence[KnownModel]: ...


CreateEngine = Callable[[Callable[[Progress], None], Callable[[Outcome], None]], EngineLike]


class EngineBridge:
    """Runs tasks on the engine, whose callbacks come from other threads."""

    def __init__(self, create_engine: CreateEngine) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._listeners: dict[str, Callable[[Progress], None]] = {}
        self._engine = create_engine(
            lambda progress: self._on_loop(self._on_progress, progress),
            lambda outcome: self._on_loop(self._on_outcome, outcome),
        )

    def start(self) -> None:
        self._engine.start()

    async def run(self, task: EngineTask, on_progress: Callable[[Progress], None]) -> Outcome:
        """Run `task` to its outcome. `on_progress` is called on the event loop."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._outcomes[task.task_id] = future
        self._listeners[task.task_id] = on_progress
        try:
            self._engine.submit(task)
            return await future
        finally:
            del self._outcomes[task.task_id], self._listeners[task.task_id]

    def cancel(self, task_id: str) -> None:
        """The task's outcome will be `Cancelled`, unless it has one already."""
        self._engine.cancel(task_id)

    def resident_models(self) -> Sequence[str]:
        """Names of the models in memory, the most recently used last."""
        return self._engine.resident_models()

    async def known_models(self) -> Sequence[KnownModel]:
        """The models in memory, and those at hand on disk."""
        return await asyncio.to_thread(self._engine.known_models)

    async def stop(self, timeout_s: float) -> None:
        """Cancel what runs, and end."""
        await asyncio.to_thread(self._engine.stop, timeout_s)

    def _on_loop(self, call: Callable[..., None], argument: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, argument)

    def _on_progress(self, progress: Progress) -> None:
        if listener := self._listeners.get(progress.task_id):
            listener(progress)

    def _on_outcome(self, outcome: Outcome) -> None:
        future = self._outcomes.get(outcome.task_id)
        if future is not None and not future.done():
            future.set_result(outcome)
