"""Every task gets exactly one outcome, and cancelling is prompt."""

from __future__ import annotations

import queue
import threading

import pytest
from unit.engine.recorder import (
    CPU,
    MAX_ROWS,
    TIMEOUT_S,
    CreateEngine,
    EngineUnderTest,
    GatedLoader,
    TickedEngine,
    engine_telling,
    img2img,
    txt2img,
)

from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import Cancelled, Finished, Progress


def test_tasks_begin_in_the_order_of_submission(engine: EngineUnderTest) -> None:
    task_ids = [f"task-{number}" for number in range(4)]
    for task_id in task_ids:
        engine.engine.submit(txt2img(task_id))

    for _ in task_ids:
        assert isinstance(engine.recorder.next_outcome(), Finished)
    first_steps = [p.task_id for p in engine.recorder.progress if p.step == 1]
    assert first_steps == task_ids


def test_every_pass_is_told_with_the_share_of_it_that_was_used(source: ModelSource) -> None:
    engine = TickedEngine(source, "sd1")
    engine.run([txt2img(task_id, steps=4, guidance=7.5, scheduler="ddim") for task_id in "abc"], per_join=3)
    engine.stop()
    passes = engine.recorder.passes
    denoising = [made for made in passes if made.stage == "denoise"]
    assert sum(made.num_rows for made in denoising) == 3 * 4 * 2  # guidance takes a second row
    assert {made.max_rows for made in denoising} == {MAX_ROWS}
    assert max(made.num_rows for made in denoising) == 3 * 2
    assert sum(made.num_rows for made in passes if made.stage == "decode") == 3
    assert all(made.seconds > 0 for made in passes)


@pytest.mark.parametrize("scheduler", ["plms", "ddim", "heun"])
def test_progress_counts_the_steps_that_were_asked_for(engine: EngineUnderTest, scheduler: str) -> None:
    """PLMS takes one scheduler step more, Heun nearly twice as many."""
    engine.finish(txt2img("a", steps=6, scheduler=scheduler))
    engine.finish(img2img("b", steps=6, strength=0.5, scheduler=scheduler))

    assert engine.recorder.steps_of("a") == [0, 1, 2, 3, 4, 5, 6]
    assert engine.recorder.steps_of("b") == [0, 1, 2, 3]
    assert {p.steps for p in engine.recorder.progress if p.task_id == "b"} == {3}


def test_loading_is_told_only_where_the_model_is_not_resident(engine: EngineUnderTest) -> None:
    engine.finish(txt2img("a", steps=2))
    engine.finish(txt2img("b", steps=2))

    loading = [p for p in engine.recorder.progress if p.stage == "loading"]
    assert {(p.task_id, p.step, p.steps) for p in loading} == {("a", 0, 2)}
    assert all(p.bytes_total is not None and p.bytes_total > 1_000_000 for p in loading)
    assert engine.models.resident() == ("sd1",)


def test_the_wait_for_room_is_no_part_of_the_load(source: ModelSource) -> None:
    engine = TickedEngine(source, row_caps=RowCaps(CPU, fixed=2))  # room for one of them

    outcomes = engine.run([txt2img("first", steps=10), txt2img("second"), txt2img("third")], per_join=3)

    first, second, third = (outcomes[task_id] for task_id in ("first", "second", "third"))
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert isinstance(third, Finished)
    assert 0 < first.timings.loading_s == second.timings.loading_s == third.timings.loading_s
    assert first.timings.loaded_at is not None
    assert first.timings.loaded_at <= first.timings.began_at < second.timings.began_at < third.timings.began_at
    assert engine.finish(txt2img("resident")).timings.loading_s == 0
    engine.stop()


def test_a_queued_task_is_cancelled_at_once_and_never_runs(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = GatedLoader(source)
    engine = create_engine(loader)
    engine.engine.submit(txt2img("running"))
    assert loader.entered.wait(TIMEOUT_S)
    engine.engine.submit(txt2img("queued"))

    engine.engine.cancel("queued")

    # The model is still being loaded.
    assert engine.recorder.next_outcome() == Cancelled("queued")
    loader.gate.set()
    assert isinstance(engine.recorder.next_outcome(), Finished)
    assert engine.recorder.steps_of("queued") == []


@pytest.mark.parametrize("scheduler", ["plms", "ddim", "heun"])
def test_a_running_task_ends_within_one_step(engine: EngineUnderTest, scheduler: str) -> None:
    def cancel_at_step_2(progress: Progress) -> None:
        if progress.step == 2:
            engine.engine.cancel("t")

    engine.recorder.at_progress = cancel_at_step_2

    assert engine.run(txt2img("t", steps=30, scheduler=scheduler)) == Cancelled("t")
    assert max(engine.recorder.steps_of("t")) == 2


def test_cancelling_during_the_load_takes_effect_at_once(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = GatedLoader(source)
    engine = create_engine(loader)
    engine.engine.submit(txt2img("t"))
    assert loader.entered.wait(TIMEOUT_S)

    engine.engine.cancel("t")

    assert engine.recorder.next_outcome() == Cancelled("t")
    loader.gate.set()
    assert loader.left.wait(TIMEOUT_S)  # transformers cannot load for two threads at once: the next test has its own
    # The load was not in vain.
    engine.finish(txt2img("next"))
    assert engine.recorder.steps_of("t") == []
    assert engine.models.resident() == ("sd1",)


def test_cancelling_what_is_unknown_or_has_ended_does_nothing(engine: EngineUnderTest) -> None:
    engine.engine.cancel("unknown")
    engine.finish(txt2img("t"))
    engine.engine.cancel("t")

    assert engine.finish(txt2img("t")).task_id == "t"
    assert engine.recorder.outcomes.empty()


def test_after_a_cancelled_task_the_next_one_gives_the_same_picture_as_ever(engine: EngineUnderTest) -> None:
    before = engine.finish(txt2img("a")).png
    engine.recorder.at_progress = lambda progress: engine.engine.cancel("b") if progress.step == 1 else None
    assert engine.run(txt2img("b", steps=10)) == Cancelled("b")

    assert engine.finish(txt2img("c")).png == before


def test_a_task_id_is_taken_once_at_a_time(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = GatedLoader(source)
    engine = create_engine(loader)
    engine.engine.submit(txt2img("t"))

    with pytest.raises(ValueError, match="has not ended"):
        engine.engine.submit(txt2img("t"))
    loader.gate.set()
    assert isinstance(engine.recorder.next_outcome(), Finished)
    assert isinstance(engine.run(txt2img("t")), Finished)


def test_a_task_may_be_submitted_again_from_its_outcome(source: ModelSource) -> None:
    """As when its job is delivered again while the outcome is on its way."""
    outcomes: queue.Queue[object] = queue.Queue()

    def on_outcome(outcome: object) -> None:
        if outcomes.empty():
            engine.submit(txt2img("t"))
        outcomes.put(outcome)

    engine = engine_telling(source, lambda progress: None, on_outcome)
    engine.start()
    engine.submit(txt2img("t"))

    assert isinstance(outcomes.get(timeout=TIMEOUT_S), Finished)
    assert isinstance(outcomes.get(timeout=TIMEOUT_S), Finished)
    assert engine.stop(TIMEOUT_S)


def test_callbacks_that_raise_do_not_kill_the_engine(source: ModelSource) -> None:
    told: queue.Queue[str] = queue.Queue()

    def raise_on_progress(progress: Progress) -> None:
        raise ValueError("on_progress")

    def raise_on_outcome(outcome: object) -> None:
        assert isinstance(outcome, Finished)
        told.put(outcome.task_id)
        raise ValueError("on_outcome")

    engine = engine_telling(source, raise_on_progress, raise_on_outcome)
    engine.start()
    engine.submit(txt2img("a"))
    engine.submit(txt2img("b"))

    assert {told.get(timeout=TIMEOUT_S), told.get(timeout=TIMEOUT_S)} == {"a", "b"}
    assert engine.stop(TIMEOUT_S)


def test_tasks_submitted_and_cancelled_from_many_threads_get_one_outcome_each(engine: EngineUnderTest) -> None:
    task_ids = [f"task-{number}" for number in range(24)]
    start = threading.Barrier(3)

    def submit(own: list[str]) -> None:
        start.wait(TIMEOUT_S)
        for task_id in own:
            engine.engine.submit(txt2img(task_id, steps=2))

    def cancel() -> None:
        start.wait(TIMEOUT_S)
        for task_id in task_ids * 3:
            engine.engine.cancel(task_id)

    threads = [threading.Thread(target=submit, args=(task_ids[start_at::2],)) for start_at in (0, 1)]
    threads.append(threading.Thread(target=cancel))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    outcomes = [engine.recorder.next_outcome() for _ in task_ids]
    assert sorted(outcome.task_id for outcome in outcomes) == sorted(task_ids)
    assert all(isinstance(outcome, Finished | Cancelled) for outcome in outcomes)
    assert engine.recorder.outcomes.empty()


def test_a_load_that_waits_for_memory_is_given_up_when_nobody_wants_the_model_any_more(
    create_engine: CreateEngine, source: ModelSource
) -> None:
    engine = create_engine(budget_bytes=1)
    waits = threading.Event()

    def submit_and_cancel(progress: Progress) -> None:
        if progress.task_id == "running" and progress.step == 1:
            engine.engine.submit(txt2img("unwanted", model="owner/sd2"))
        if progress.task_id == "running" and engine.models.waits_for_memory and not waits.is_set():
            waits.set()
            engine.engine.cancel("unwanted")
            engine.engine.submit(txt2img("next", steps=2))

    engine.recorder.at_progress = submit_and_cancel
    engine.engine.submit(txt2img("running", steps=500, width=128, height=128))  # longer than a load

    assert engine.recorder.next_outcome() == Cancelled("unwanted")
    next_outcome = engine.recorder.next_outcome()
    assert isinstance(next_outcome, Finished)
    assert next_outcome.task_id == "next"  # beside the one that runs
    engine.engine.cancel("running")
    assert engine.recorder.next_outcome() == Cancelled("running")
    assert engine.models.resident() == ("sd1",)
