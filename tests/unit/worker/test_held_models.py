"""What a worker holds: what is in memory, and what it is about to load."""

from __future__ import annotations

from nats.aio.msg import Msg
from pydantic import SecretStr

from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.settings import NatsSettings
from sd_worker.held_models import HeldModelsWatch

_A, _B = model_key("a"), model_key("b")


def _create() -> tuple[HeldModelsWatch, list[str], NatsClient]:
    """One with `a` in memory; the list is what is in memory."""
    client = NatsClient(NatsSettings(_env_file=None, nats_url=SecretStr("nats://127.0.0.1:1")), "test")
    resident = ["a"]
    return HeldModelsWatch(client, "worker", lambda: resident), resident, client


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
