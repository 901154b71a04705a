"""Models are fetched side by side: a slow download keeps no task waiting but those of its own model."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from unit.engine.recorder import (
    TIMEOUT_S,
    CreateEngine,
    EngineUnderTest,
    WrappedLoader,
    txt2img,
)

from sd_worker.engine.errors import EngineStopped, ModelUnavailable
from sd_worker.engine.models.loaded_model import OnLoadProgress, ReadModel
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.reports import MOST_FETCHES, LoadProgress
from sd_worker.engine.tasks import Cancelled, Failed, Finished
from support.read_model import read_model


class SlowHub(WrappedLoader):
    """Fetches the models of `names` when a test says so, and tells progress as it says. Others are at hand."""

    def __init__(self, loader: ModelSource, *names: str) -> None:
        super().__init__(loader)
        self._changed = threading.Condition()
        self._told: dict[str, list[int]] = {name: [] for name in names}
        self._released: set[str] = set()
        self.running: list[str] = []
        self.given_up: list[str] = []

    def is_at_hand(self, name: str) -> bool:
        return name not in self._told

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        if self.is_at_hand(name):
            return super().fetch(name, on_progress)
        with self._changed:
            self.running.append(name)
            self._changed.notify_all()
            try:
                while True:
                    while self._told[name]:
                        on_progress(LoadProgress("downloading", self._told[name].pop(0), 100))
                    if name in self._released:
                        break
                    assert self._changed.wait(TIMEOUT_S)
            except EngineStopped:
                self.given_up.append(name)
                raise
            finally:
                self.running.remove(name)
                self._changed.notify_all()
        return super().fetch(name, on_progress)

    def tell(self, name: str, num_bytes: int) -> None:
        with self._changed:
            self._told[name].append(num_bytes)
            self._changed.notify_all()

    def release(self, name: str) -> None:
        with self._changed:
            self._released.add(name)
            self._changed.notify_all()

    def wait_until(self, *running: str) -> None:
        """Return when just these are fetched."""
        with self._changed:
            assert self._changed.wait_for(lambda: sorted(self.running) == sorted(running), TIMEOUT_S), self.running


@pytest.fixture
def hub(source: ModelSource) -> Iterator[SlowHub]:
    hub = SlowHub(source, "owner/sd2", "flags-none", "flags-all", "missing", *map(str, range(MOST_FETCHES)))
    yield hub
    for name in list(hub._told):
        hub.tell(name, 0)  # where it is given up
        hub.release(name)
    hub.wait_until()


@pytest.fixture
def engine(create_engine: CreateEngine, hub: SlowHub) -> EngineUnderTest:
    return create_engine(hub)


def downloaded(engine: EngineUnderTest, task_id: str) -> list[int | None]:
    """What the task was told of its model's download."""
    told = [each for each in engine.recorder.progress if each.task_id == task_id and each.stage == "downloading"]
    return [each.bytes_done for each in told]


def fetch_as_many_as_may_be(engine: EngineUnderTest, hub: SlowHub, *more: str) -> list[str]:
    """Submit a task "of-…" of each of as many models, and of `more` behind them. Returns which are being fetched."""
    names = [str(number) for number in range(MOST_FETCHES)]
    for name in (*names, *more):
        engine.engine.submit(txt2img(f"of-{name}", model=name))
    hub.wait_until(*names)
    return names


def test_a_model_at_hand_is_loaded_and_its_task_ends_while_as_many_are_fetched_as_may_be(
    engine: EngineUnderTest, hub: SlowHub
) -> None:
    names = fetch_as_many_as_may_be(engine, hub)

    finished = engine.finish(txt2img("quick"))

    assert finished.task_id == "quick"
    assert hub.running == names
    assert sorted(engine.models.fetching()) == names


def test_no_more_are_fetched_side_by_side_than_may_be_and_the_next_when_one_has_ended(
    engine: EngineUnderTest, hub: SlowHub
) -> None:
    names = fetch_as_many_as_may_be(engine, hub, "owner/sd2")

    hub.release("0")  # which there is not

    outcome = engine.recorder.next_outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.task_id, outcome.code) == ("of-0", "model_unavailable")
    hub.wait_until(*names[1:], "owner/sd2")


def test_each_task_hears_of_its_own_download_and_finishes_when_it_is_there(
    engine: EngineUnderTest, hub: SlowHub
) -> None:
    told = {"a": threading.Event(), "b": threading.Event()}
    engine.recorder.at_progress = lambda progress: told[progress.task_id].set() if progress.bytes_done else None
    engine.engine.submit(txt2img("a", model="owner/sd2"))
    engine.engine.submit(txt2img("b", model="flags-none"))
    for task_id, name, num_bytes in (("a", "owner/sd2", 10), ("b", "flags-none", 70), ("a", "owner/sd2", 20)):
        told[task_id].clear()
        hub.tell(name, num_bytes)
        assert told[task_id].wait(TIMEOUT_S)

    hub.release("flags-none")
    second = engine.recorder.next_outcome()
    hub.release("owner/sd2")
    first = engine.recorder.next_outcome()

    assert isinstance(second, Finished)
    assert second.task_id == "b"
    assert isinstance(first, Finished)
    assert first.task_id == "a"
    assert (downloaded(engine, "a"), downloaded(engine, "b")) == ([10, 20], [70])


def test_a_fetch_that_fails_fails_the_tasks_of_its_model_alone(
    create_engine: CreateEngine, source: ModelSource, hub: SlowHub
) -> None:
    engine = create_engine(hub)
    for task_id, name in (("a", "missing"), ("b", "missing"), ("c", "owner/sd2")):
        engine.engine.submit(txt2img(task_id, model=name))
    hub.wait_until("missing", "owner/sd2")

    hub.release("missing")

    failed = [engine.recorder.next_outcome() for _ in range(2)]
    assert [each.task_id for each in failed if isinstance(each, Failed)] == ["a", "b"]
    with pytest.raises(ModelUnavailable):
        read_model(source, "missing")
    hub.release("owner/sd2")
    assert engine.recorder.next_outcome().task_id == "c"


def test_a_fetch_that_nobody_wants_any_more_keeps_no_place_and_ends_at_its_next_progress(
    engine: EngineUnderTest, hub: SlowHub
) -> None:
    names = fetch_as_many_as_may_be(engine, hub, "owner/sd2")

    engine.engine.cancel("of-0")

    assert engine.recorder.next_outcome() == Cancelled("of-0")
    hub.wait_until(*names, "owner/sd2")  # it has not heard yet
    assert "0" not in engine.models.fetching()
    hub.tell("0", 1)
    hub.wait_until(*names[1:], "owner/sd2")
    assert hub.given_up == ["0"]


def test_a_fetch_that_was_given_up_is_gone_on_with_where_the_model_is_wanted_again(
    engine: EngineUnderTest, hub: SlowHub
) -> None:
    engine.engine.submit(txt2img("a", model="owner/sd2"))
    hub.wait_until("owner/sd2")
    engine.engine.cancel("a")
    assert engine.recorder.next_outcome() == Cancelled("a")
    engine.finish(txt2img("quick"))

    engine.engine.submit(txt2img("b", model="owner/sd2"))
    engine.finish(txt2img("quick"))
    hub.tell("owner/sd2", 10)
    hub.release("owner/sd2")

    finished = engine.recorder.next_outcome()
    assert isinstance(finished, Finished)
    assert finished.task_id == "b"
    assert hub.given_up == []


@pytest.mark.parametrize("is_drain", [True, False])
def test_a_drain_and_a_stop_give_up_all_fetches(engine: EngineUnderTest, hub: SlowHub, is_drain: bool) -> None:
    engine.engine.submit(txt2img("a", model="owner/sd2"))
    engine.engine.submit(txt2img("b", model="flags-none"))
    hub.wait_until("owner/sd2", "flags-none")

    if is_drain:
        engine.engine.drain()
    else:
        assert engine.engine.stop(TIMEOUT_S)

    assert {engine.recorder.next_outcome() for _ in range(2)} == {Cancelled("a"), Cancelled("b")}
    assert engine.engine.stop(TIMEOUT_S)
    for name in ("owner/sd2", "flags-none"):
        hub.tell(name, 1)
    hub.wait_until()
    assert sorted(hub.given_up) == ["flags-none", "owner/sd2"]


def test_tasks_whose_model_is_fetched_are_no_work_yet(create_engine: CreateEngine, hub: SlowHub) -> None:
    engine = create_engine(hub)
    engine.engine.submit(txt2img("a", model="owner/sd2"))
    hub.wait_until("owner/sd2")
    engine.finish(txt2img("quick"))
    assert engine.engine._engine.workload.passes == 0.0
    hub.release("owner/sd2")
    assert engine.recorder.next_outcome().task_id == "a"
