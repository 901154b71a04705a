"""`/readyz` of a worker tells why it takes no jobs: operators look there."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

from integration.worker.conftest import CreateWorker, Tasks
from integration.worker.hub_sources import NAME, held_download

from sd_worker.app import WorkerApp
from support.hub import Hub
from support.waiting import PATIENCE_S, once, until


def _missing(port: int | None) -> dict[str, str]:
    """What `/readyz` finds missing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S):
            return {}
    except urllib.error.HTTPError as refused:
        missing: dict[str, str] = json.loads(refused.read())["missing"]
        return missing


async def _wait_until_missing(worker: WorkerApp, missing: dict[str, str]) -> None:
    await until(lambda: worker.health_port is not None)
    await once(lambda: asyncio.to_thread(_missing, worker.health_port), lambda told: told == missing)


async def test_it_tells_models_that_are_being_loaded_from_a_worker_that_ends(
    create_worker: CreateWorker, tasks: Tasks, hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    hub.add(NAME, tiny)
    worker = create_worker(preload_models=(NAME,), health_port=0)
    with held_download(tmp_path / "cache", tiny):
        starting = asyncio.create_task(worker.start())
        await _wait_until_missing(worker, {"jobs": "the models of PRELOAD_MODELS are being loaded"})
    await starting
    await _wait_until_missing(worker, {})

    assert worker._engine is not None
    model = worker._engine._engine.models.get(NAME)  # type: ignore[attr-defined]
    goes_on = threading.Event()
    model.pipeline.components["unet"].register_forward_pre_hook(lambda *_: goes_on.wait(PATIENCE_S) and None)
    await tasks.publish("t", model=NAME)
    await tasks.wait_until_begun("t")
    stopping = asyncio.create_task(worker.stop())
    await _wait_until_missing(worker, {"jobs": "the worker ends: it takes no more jobs"})
    goes_on.set()
    await stopping
    await tasks.wait_for("t", "finished")
