"""Stopping is prompt, and every task has its outcome."""

from __future__ import annotations

import threading

import pytest
import torch
from unit.engine.recorder import (
    CPU,
    TIMEOUT_S,
    CreateEngine,
    GatedLoader,
    Recorder,
    engine_telling,
    network_of,
    txt2img,
)

from sd_worker.engine.errors import EngineStopped
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import Cancelled, Finished


def test_stop_cancels_what_is_queued_and_what_runs(create_engine: CreateEngine) -> None:
    engine = create_engine()
    running = threading.Event()
    engine.recorder.at_progress = lambda progress: running.set() if progress.step == 1 else None
    engine.engine.submit(txt2img("running", steps=500))
    engine.engine.submit(txt2img("queued"))
    assert running.wait(TIMEOUT_S)

    assert engine.engine.stop(TIMEOUT_S)

    outcomes = {engine.recorder.outcomes.get_nowait().task_id for _ in range(2)}
    assert outcomes == {"running", "queued"}
    assert engine.recorder.outcomes.empty()
    with pytest.raises(EngineStopped):
        engine.engine.submit(txt2img("late"))
    assert engine.engine.stop(TIMEOUT_S)


def test_a_drain_cancels_what_waits_for_room_and_lets_what_runs_end(create_engine: CreateEngine) -> None:
    engine = create_engine(row_caps=RowCaps(CPU, fixed=2))
    running = threading.Event()
    engine.recorder.at_progress = lambda progress: running.set() if progress.step == 1 else None
    engine.engine.submit(txt2img("running", steps=200))
    engine.engine.submit(txt2img("waiting"))
    assert running.wait(TIMEOUT_S)

    engine.engine.drain()

    assert engine.recorder.next_outcome() == Cancelled("waiting")
    with pytest.raises(EngineStopped):
        engine.engine.submit(txt2img("late"))
    finished = engine.recorder.next_outcome()
    assert isinstance(finished, Finished)
    assert finished.task_id == "running"


def test_a_drain_gives_up_a_load(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = GatedLoader(source)
    engine = create_engine(loader)
    engine.engine.submit(txt2img("t"))
    assert loader.entered.wait(TIMEOUT_S)

    engine.engine.drain()

    assert engine.recorder.next_outcome() == Cancelled("t")
    loader.gate.set()
    assert loader.left.wait(TIMEOUT_S)
    assert engine.engine.stop(TIMEOUT_S)
    assert engine.models.resident() == ()
    assert not engine.engine.has_failed()


def test_a_task_for_which_memory_runs_out_during_a_drain_is_not_tried_again(create_engine: CreateEngine) -> None:
    engine = create_engine()
    engine.finish(txt2img("warm"))
    vae = network_of(engine.models, "sd1", "vae")

    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    vae.get_submodule("decoder").register_forward_pre_hook(run_out)
    del vae
    engine.recorder.at_progress = lambda progress: engine.engine.drain() if progress.step == 1 else None
    engine.engine.submit(txt2img("a", steps=10))
    engine.engine.submit(txt2img("b", steps=10))

    outcomes = [engine.recorder.next_outcome() for _ in range(2)]
    assert Cancelled("a") in outcomes or Cancelled("b") in outcomes, outcomes


def test_stop_does_not_wait_for_a_load(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = GatedLoader(source)
    engine = create_engine(loader)
    engine.engine.submit(txt2img("t"))
    assert loader.entered.wait(TIMEOUT_S)

    assert engine.engine.stop(TIMEOUT_S)

    assert engine.recorder.next_outcome() == Cancelled("t")
    loader.gate.set()
    assert loader.left.wait(TIMEOUT_S)  # transformers cannot load for two threads at once: the next test has its own


def test_stop_before_start_cancels_what_was_submitted(source: ModelSource) -> None:
    recorder = Recorder()
    engine = engine_telling(source, recorder.on_progress, recorder.on_outcome)
    engine.submit(txt2img("t"))

    assert engine.stop(TIMEOUT_S)

    assert recorder.next_outcome() == Cancelled("t")
