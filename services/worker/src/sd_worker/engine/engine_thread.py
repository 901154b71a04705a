"""The one thread that owns the device, and what others may ask of it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import torch

from sd_worker.engine.cores import compute_on
from sd_worker.engine.engine import Engine
from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.models.loads import Models
from sd_worker.engine.reports import ModelsView, PassMade, Workload
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import Cancelled, EngineTask, Outcome, Progress

_log = logging.getLogger(__name__)

Told = ParamSpec("Told")


@dataclass(frozen=True)
class Listeners:
    """Whom the engine tells. All are called from its thread and should return at once; what they raise is logged."""

    on_progress: Callable[[Progress], None]
    on_outcome: Callable[[Outcome], None]
    #: What the engine has to do: when that has changed, and when it has taken tasks.
    on_workload: Callable[[Workload], None] = lambda workload: None
    #: The latents of a task after each of its steps.
    on_preview: Callable[[str, torch.Tensor], None] | None = None
    on_pass: Callable[[PassMade], None] = lambda made: None


class EngineThread:
    """Ticks an engine for as long as there is work.

    Every task gets exactly one outcome, whatever happens, and no progress after it. All methods may be called from any
    thread, also from the listeners, but for `stop`.
    """

    def __init__(self, models: Models, row_caps: RowCaps, listeners: Listeners, num_cores: int = 0) -> None:
        """`num_cores`: how many cores of the CPU it computes on; 0: as many as the calling thread."""
        self.models: ModelsView = models
        self._listeners = listeners
        self._changed = threading.Condition()
        self._engine = Engine(
            models,
            row_caps,
            on_progress=_tolerant(listeners.on_progress),
            on_change=self._wake,
            on_preview=None if listeners.on_preview is None else _tolerant(listeners.on_preview),
            on_pass=_tolerant(listeners.on_pass),
        )
        self._num_cores = num_cores or torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._workload = Workload()
        # What follows is guarded by the condition, which is notified of each change.
        self._orders: list[Callable[[], None]] = []
        self._task_ids: set[str] = set()
        self._has_news = False
        self._is_draining = False
        self._is_stopping = False
        self._has_failed = False

    def start(self) -> None:
        """Start the thread. Tasks submitted before wait until then."""
        self._thread.start()

    def submit(self, task: EngineTask) -> None:
        """Take a task. Raises `EngineStopped` after `drain` or `stop`, `ValueError` while a task of its id has no
        outcome."""
        with self._changed:
            if self._is_draining or self._is_stopping:
                raise EngineStopped("The engine takes no more tasks")
            if task.task_id in self._task_ids:
                raise ValueError(f"Task {task.task_id} was submitted before and has not ended")
            self._task_ids.add(task.task_id)
            self._order(lambda: self._engine.submit(task))

    def cancel(self, task_id: str) -> None:
        """End a task as `Cancelled`, at the next tick. An unknown id is let pass, and so is a task whose picture is
        ready."""
        with self._changed:
            self._order(lambda: self._engine.cancel(task_id))

    def drain(self) -> None:
        """End tasks that have not begun as `Cancelled`, at the next tick, and take no more. Those that run go on."""
        with self._changed:
            self._is_draining = True
            self._order(self._engine.drain)

    def stop(self, timeout_s: float) -> bool:
        """Cancel all tasks, and end. Idempotent. Returns whether all outcomes were told within `timeout_s` seconds."""
        with self._changed:
            if not self._is_stopping:
                self._is_stopping = True
                self._order(self._engine.cancel_all)
        if self._thread.ident is None:
            self._thread.start()  # what was submitted has outcomes to be told
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def has_failed(self) -> bool:
        """Whether it can do nothing any more: the process must be started anew."""
        return self._has_failed

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def _work(self) -> None:
        compute_on(self._num_cores)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._orders or self._has_news or self._engine.has_work or self._has_ended()
                )
                if self._has_ended():
                    break
                orders, self._orders, self._has_news = self._orders, [], False
            try:
                for order in orders:
                    order()
                for outcome in self._engine.tick():
                    self._tell(outcome)
                self._tell_workload(even_if_unchanged=bool(orders))
            except Exception:
                # The device has failed, or this code. Other workers may have the tasks.
                _log.exception("the engine has failed")
                self._give_up()
                break
        self._engine.stop()

    def _give_up(self) -> None:
        with self._changed:
            self._is_stopping = self._has_failed = True
            task_ids = tuple(self._task_ids)
        for task_id in task_ids:
            self._tell(Cancelled(task_id))
        _tolerant(self._listeners.on_workload)(Workload(passes=math.inf))

    def _has_ended(self) -> bool:
        return self._is_stopping and not self._task_ids

    def _tell(self, outcome: Outcome) -> None:
        with self._changed:
            # Before the callback, in which the id may be submitted again.
            self._task_ids.discard(outcome.task_id)
        _tolerant(self._listeners.on_outcome)(outcome)

    def _tell_workload(self, *, even_if_unchanged: bool) -> None:
        workload = self._engine.workload
        if workload != self._workload or even_if_unchanged:
            self._workload = workload
            _tolerant(self._listeners.on_workload)(workload)


def _tolerant(listener: Callable[Told, None]) -> Callable[Told, None]:
    """`listener`, whose errors are logged: the thread must outlive them."""

    def tell(*told: Told.args, **_: Told.kwargs) -> None:
        try:
            listener(*told, **_)
        except Exception:
            _log.exception("a listener raised", extra={"told": type(told[0]).__name__})

    return tell
