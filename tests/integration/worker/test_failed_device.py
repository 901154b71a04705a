"""A worker whose device has failed: it is of no use any more, and must not seem to be."""

from __future__ import annotations

import asyncio
import sys

import pytest
from integration.worker.conftest import StartWorker, Tasks
from nats.aio.msg import Msg

from sd_common import subjects
from sd_common.announcements import WorkerAnnouncement
from sd_common.backlog import HeldModels
from sd_common.events import FinishedEvent
from sd_common.nats_client import NatsClient
from sd_worker.engine.errors import DeviceUnavailable
from sd_worker.errors import EngineFailed
from support import broken_device
from support.connections import connected
from support.deployment import Deployment
from support.servers import nats_settings_of
from support.waiting import PATIENCE_S, until

_BROKEN = (sys.executable, broken_device.__file__)
#: A process that starts imports torch, on a machine that runs other tests.
_ENDS_WITHIN_S = 1.5 * PATIENCE_S


@pytest.mark.timeout(240)
async def test_it_hands_back_its_job_and_ends_with_an_error_and_nobody_waits_for_its_models(
    deployment: Deployment, start_worker: StartWorker, tasks: Tasks, nats_client: NatsClient
) -> None:
    announced: list[WorkerAnnouncement] = []
    held: list[HeldModels] = []

    async def on_announced(message: Msg) -> None:
        announced.append(WorkerAnnouncement.model_validate_json(message.data))

    async def on_held(message: Msg) -> None:
        held.append(HeldModels.model_validate_json(message.data))

    async with connected(nats_settings_of(deployment.nats, "worker")) as another:
        await nats_client.subscribe(subjects.WORKERS, cb=on_announced)
        await another.subscribe(subjects.HELD_MODELS, cb=on_held)
        await asyncio.gather(nats_client.flush(), another.flush())
        await tasks.publish("t")
        broken = deployment.start_worker("broken", runner=_BROKEN)
        assert await asyncio.to_thread(broken.process.wait, _ENDS_WITHIN_S) == 1, broken.log
        assert "engine_failed" in broken.log
        assert "The worker's engine has failed, as the log tells: start this again" in broken.log.splitlines()[-1]
        # What it told last may be under way still.
        await until(lambda: announced[-1:] != [] and announced[-1].is_leaving)
        await until(lambda: held[-1:] != [] and not held[-1].model_keys)
    assert any(told.model_keys for told in held), "it never held the model"
    await start_worker("sound")
    finished = (await tasks.wait_for("t", "finished")).event
    assert isinstance(finished, FinishedEvent)
    assert (finished.worker, finished.attempt) == ("sound", 2)


async def test_a_worker_whose_device_fails_on_a_model_that_it_preloads_does_not_start(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DeviceUnavailable("Device 'cuda' has failed: restart the worker")

    monkeypatch.setattr("sd_worker.engine.models.resident_models.check_device", fail)
    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", fail)
    with pytest.raises(EngineFailed):
        await start_worker(preload_models=("tiny",))
