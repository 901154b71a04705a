"""What a worker holds: what is in memory, and what it is about to load."""

from __future__ import annotations

from nats.aio.msg import Msg
from pydantic import SecretStr

from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_worker.engine.reports import MOST_FETCHES, ModelsHere
from sd_worker.held_models import HeldModelsWatch

_A, _B = model_key("a"), model_key("b")


def _create(*fetching: str) -> tuple[HeldModelsWatch, list[str], NatsClient]:
    """One with `a` in memory, while `fetching` are fetched; the list is what is in memory."""
    client = NatsClient(NatsSettings(_env_file=None, nats_url=SecretStr("nats://127.0.0.1:1")), "test")
    resident = ["a"]
    return HeldModelsWatch(client, "worker", lambda: ModelsHere(resident, fetching, ["c"])), resident, client


async def test_a_model_is_held_from_the_taking_of_a_job_and_a_turn_begins_when_it_is_in_memory() -> None:
    watch, resident, client = _create()
    before = watch.memory()
    assert (list(before.held), before.is_loading) == ([_A], False)
    job = Msg(client, f"jobs.{_B}")
    watch.took(_B, job)
    loading = watch.memory()
    assert (list(loading.held), loading.is_loading) == ([_A, _B], True)
    assert loading.loaded_ago_s > 1e9
    resident[:] = ["b"]
    loaded = watch.memory()
    assert (list(loaded.held), loaded.is_loading) == ([_B], False)
    assert loaded.loaded_ago_s < 10


async def test_a_job_of_a_model_in_memory_begins_no_load() -> None:
    watch, _, client = _create()
    job = Msg(client, f"jobs.{_A}")
    watch.took(_A, job)
    assert not watch.memory().is_loading


async def test_a_model_whose_task_ended_without_it_is_not_held() -> None:
    """As where it cannot be loaded, or where the task had been aborted."""
    watch, _, client = _create()
    job = Msg(client, f"jobs.{_B}")
    watch.took(_B, job)
    job._ackd = True
    assert list(watch.memory().held) == [_A]
    forgotten = Msg(client, f"jobs.{_B}")
    watch.took(_B, forgotten)
    assert watch.memory().is_loading
    del forgotten  # another worker has it
    assert not watch.memory().is_loading


async def test_a_model_that_is_fetched_is_held_and_keeps_no_other_from_being_loaded() -> None:
    watch, _, client = _create("b")
    job = Msg(client, f"jobs.{_B}")
    watch.took(_B, job)
    memory = watch.memory()
    assert (list(memory.held), memory.fetching, memory.is_loading) == ([_A, _B], {_B}, False)
    other = Msg(client, "jobs.other")
    watch.took("other", other)  # which is at hand, or not known to be fetched yet
    assert watch.memory().is_loading


async def test_where_as_many_models_are_fetched_as_may_be_only_those_at_hand_are_loaded() -> None:
    names = [f"owner/{number}" for number in range(MOST_FETCHES)]
    assert _create(*names[1:])[0].memory().only is None
    full = _create(*names)[0].memory()
    assert (full.only, full.is_loading) == ({model_key("c")}, False)
