"""A worker whose models are downloaded slowly serves the others meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from huggingface_hub import constants
from integration.worker.conftest import StartWorker, Tasks

from sd_worker.engine.reports import MOST_FETCHES
from support.hub import Hub
from support.waiting import PATIENCE_S

_UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def patient_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that stands still goes on when the test says so, and not after a time limit."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 600)


def _bytes_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


async def test_models_at_hand_are_served_while_downloads_stand_still_and_each_task_hears_of_its_own(
    start_worker: StartWorker, tasks: Tasks, hub: Hub, tiny: Path, model_dir: Path
) -> None:
    hub.add("owner/one", tiny)
    hub.add("owner/two", model_dir / "tiny")
    hub.held_after[_UNET] = 5000
    await start_worker()
    for name in ("one", "two"):
        await tasks.publish(name, model=f"owner/{name}")
        total = await tasks.wait_until_downloading(name)
        assert total == _bytes_of(tiny if name == "one" else model_dir / "tiny")

    async with asyncio.timeout(PATIENCE_S):
        for model in ("tiny", "other", "tiny"):
            await tasks.publish(f"quick-{model}", model=model)
            await tasks.wait_for(f"quick-{model}", "finished")

    for name in ("one", "two"):
        assert (await tasks.events(name))[-1].event.event_type == "started"
    hub.goes_on.set()
    for name in ("one", "two"):
        await tasks.wait_for(name, "finished")


async def test_a_worker_takes_one_job_of_each_model_that_it_downloads_of_so_many_and_of_those_at_hand(
    start_worker: StartWorker, tasks: Tasks, hub: Hub, tiny: Path
) -> None:
    hub.held_after[_UNET] = 5000
    names = [f"owner/{number}" for number in range(MOST_FETCHES + 1)]
    for name in names:
        hub.add(name, tiny)
    await start_worker()
    for name in names[:-1]:
        await tasks.publish(name.replace("/", "-"), model=name)
        await tasks.wait_until_downloading(name.replace("/", "-"))
    await tasks.publish("second", model=names[0])
    await tasks.publish("beyond", model=names[-1])

    async with asyncio.timeout(PATIENCE_S):
        await tasks.publish("quick", model="tiny")  # not in memory, but at hand
        await tasks.wait_for("quick", "finished")

    for task_id in ("second", "beyond"):
        assert await tasks.events(task_id) == []  # nobody has taken it
    hub.goes_on.set()
    for task_id in (*(name.replace("/", "-") for name in names[:-1]), "second", "beyond"):
        await tasks.wait_for(task_id, "finished")
