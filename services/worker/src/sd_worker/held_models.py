"""Who holds which model: has it in memory, or has taken a job for which it is loaded (ADR 9).

Workers tell each other when that changes. Each model is named again every few seconds by one of the workers that hold
it, however many they are: one that has died is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import Callable

import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import ValidationError

from sd_common import subjects
from sd_common.backlog import HeldModels
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.retries import retried_while_away
from sd_common.timed_wait import set_within
from sd_worker.admission import Memory
from sd_worker.engine.reports import MOST_FETCHES, ModelsHere
from sd_worker.spread import spread_s

log = structlog.get_logger(__name__)

#: Seconds between looks at which models are resident.
_LOOK_INTERVAL_S = 0.25
#: A model that nobody has named for this many seconds is named again; after `_SILENCE_S` it counts as dropped.
_REPEAT_AFTER_S = 5.0
_SILENCE_S = 3 * _REPEAT_AFTER_S


class HeldModelsWatch:
    """What this worker holds, told to others; and what others hold, as they tell."""

    def __init__(
        self,
        client: NatsClient,
        worker: str,
        models_here: Callable[[], ModelsHere],
    ) -> None:
        self._client = client
        self._worker = worker
        self._models_here = models_here
        #: Keys of models that are not in memory, and for each the job that was taken for it.
        self._coming: dict[str, weakref.ref[Msg]] = {}
        self._loaded_at = -math.inf
        #: Of each worker, this one too: when it told last, and what.
        self._told: dict[str, tuple[float, frozenset[str]]] = {}
        self._told_last = frozenset[str]()
        #: What was told before this must be told again: somebody new listens.
        self._asked_at = -math.inf
        self._changed = asyncio.Event()
        self._subscription: Subscription | None = None
        self._telling: asyncio.Task[None] | None = None
        self._forget_reconnects: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Listen and tell. Idempotent. Raises `Unavailable`."""
        if self._subscription is None:
            self._subscription = await retried_while_away(
                lambda: self._client.subscribe(subjects.HELD_MODELS, cb=self._on_told)
            )
        if self._telling is None:
            self._forget_reconnects = self._client.on_reconnect(self._on_reconnect)
            self._telling = asyncio.create_task(self._tell_all(), name="tell-held-models")

    async def stop(self) -> None:
        """Tell that this worker holds nothing more."""
        if self._telling is None:
            return
        while not self._telling.done():  # nats-py swallows a cancellation here and there
            self._telling.cancel()
            await asyncio.wait([self._telling], timeout=1)
        self._telling = None
        self._forget_reconnects()
        await self._tell(is_leaving=True)
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()
            self._subscription = None

    def memory(self) -> Memory:
        """What this worker holds now."""
        here = self._models_here()
        fetching = frozenset(map(model_key, here.fetching))
        resident = list(map(model_key, here.resident))
        now = asyncio.get_running_loop().time()
        for key, reference in list(self._coming.items()):
            job = reference()
            if key in resident:
                self._loaded_at = now
            elif job is not None and not job.is_acked:
                continue
            # Else its task has ended without the model: it cannot be loaded, or nobody wants it.
            del self._coming[key]
        coming = [key for key in {**self._coming, **dict.fromkeys(fetching)} if key not in resident]
        at_hand = frozenset(map(model_key, here.below_model_dir)) if len(fetching) >= MOST_FETCHES else None
        is_loading = not fetching.issuperset(coming)
        return Memory([*resident, *coming], fetching, is_loading, now - self._loaded_at, only=at_hand)

    def took(self, key: str, job: Msg) -> None:
        """A job of this model was taken. Where the model is not in memory, it is being loaded from now on."""
        if key not in self.memory().held:
            self._coming[key] = weakref.ref(job)
            self._changed.set()

    def elsewhere(self) -> frozenset[str]:
        """What other workers hold."""
        return frozenset[str]().union(*(keys for worker, keys in self._heard().items() if worker != self._worker))

    def knows_others(self) -> bool:
        """Whether other workers have told anything of late."""
        return any(worker != self._worker for worker in self._heard())

    def _heard(self) -> dict[str, frozenset[str]]:
        silent_since = asyncio.get_running_loop().time() - _SILENCE_S
        self._told = {worker: told for worker, told in self._told.items() if told[0] > silent_since}
        return {worker: keys for worker, (_, keys) in self._told.items()}

    async def _tell_all(self) -> None:
        await self._tell(has_just_come=True)
        while True:
            if await set_within(self._changed, _LOOK_INTERVAL_S) or self._has_changed():
                self._changed.clear()
                await self._tell()
            elif self._is_repetition_due():
                await asyncio.sleep(spread_s(_LOOK_INTERVAL_S))
                if self._is_repetition_due():  # nobody else has named them meanwhile
                    await self._tell()

    def _has_changed(self) -> bool:
        return frozenset(self.memory().held) != self._told_last

    def _is_repetition_due(self) -> bool:
        due_before = max(asyncio.get_running_loop().time() - _REPEAT_AFTER_S, self._asked_at)
        named = frozenset[str]().union(*(keys for at, keys in self._told.values() if at >= due_before))
        return not named.issuperset(self.memory().held)

    async def _tell(self, *, has_just_come: bool = False, is_leaving: bool = False) -> None:
        keys = frozenset[str]() if is_leaving else frozenset(self.memory().held)
        self._told[self._worker] = asyncio.get_running_loop().time(), keys
        self._told_last = keys
        message = HeldModels(worker=self._worker, model_keys=sorted(keys), has_just_come=has_just_come)
        with contextlib.suppress(nats.errors.Error):  # told again after a reconnect
            await self._client.publish(subjects.HELD_MODELS, message.model_dump_json().encode())

    async def _on_told(self, message: Msg) -> None:
        try:
            told = HeldModels.model_validate_json(message.data)
        except ValidationError:
            log.warning("held_models_ignored")
            return
        if told.worker == self._worker:
            return
        now = asyncio.get_running_loop().time()
        if told.has_just_come:
            self._asked_at = now
        self._told[told.worker] = now, frozenset(told.model_keys)

    async def _on_reconnect(self) -> None:
        await self._tell(has_just_come=True)  # it may have missed what others told
