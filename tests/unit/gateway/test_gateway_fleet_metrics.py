"""What a gateway shows of workers, tasks and queues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import pytest
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry

from sd_common.backlog import Backlog, LaneBacklog
from sd_common.messages import now
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_gateway import heard_backlog
from sd_gateway.fleet_metrics import FleetMetrics
from sd_gateway.heard_backlog import HeardBacklog
from sd_gateway.served_models import ServedModels
from sd_gateway.unfinished_tasks import UnfinishedTasks
from support.metrics import Page


class _Client:
    """Takes one subscription."""

    async def subscribe(self, _subject: str, cb: Callable[[Msg], Awaitable[None]]) -> None:
        self.tell = cb


class _Nobody:
    """No workers, no tasks."""

    def num_workers(self) -> int:
        return 0

    def num_tasks(self) -> int:
        return 0


class Fleet:
    """A gateway's page, and the worker that tells it the backlog."""

    def __init__(self, allowed_models: Sequence[str] = ()) -> None:
        self._client = _Client()
        self._backlog = HeardBacklog(cast(NatsClient, self._client))
        nobody = _Nobody()
        self._registry = CollectorRegistry()
        self._registry.register(
            FleetMetrics(cast(ServedModels, nobody), cast(UnfinishedTasks, nobody), self._backlog, allowed_models)
        )
        asyncio.run(self._backlog.start())

    def tell(self, *names: str, num_waiting: int = 2, oldest_wait_s: float = 3.0) -> None:
        lanes = [
            LaneBacklog(
                model_key=model_key(name), lane="rest", num_jobs=3, num_waiting=num_waiting, oldest_wait_s=oldest_wait_s
            )
            for name in names
        ]
        self.tell_raw(Backlog(worker="w", time=now(), lanes=lanes).model_dump_json().encode())

    def tell_raw(self, data: bytes) -> None:
        message: Any = type("Message", (), {"data": data})
        asyncio.run(cast(Any, self._client.tell(message)))

    def page(self) -> Page:
        return Page.of(self._registry)

    def keys(self) -> set[str]:
        return {dict(labels)["model_key"] for labels in self.page().labels("sd_backlog_jobs")}


def test_the_backlog_of_each_lane_is_shown() -> None:
    fleet = Fleet()
    fleet.tell("shapes", "owner/sd2")
    page = fleet.page()
    for name in ("shapes", "owner/sd2"):
        labels = {"model_key": model_key(name), "lane": "rest"}
        assert page.value("sd_backlog_jobs", **labels) == 3
        assert page.value("sd_backlog_waiting_jobs", **labels) == 2
        assert page.value("sd_backlog_oldest_wait_seconds", **labels) == 3.0


def test_names_that_users_make_up_share_one_series() -> None:
    fleet = Fleet()
    fleet.tell(*(f"made-up-{number}" for number in range(30)))
    fleet.tell(*(f"made-up-{number}" for number in range(100)), oldest_wait_s=9.0)
    assert len(fleet.keys()) == 51
    page = fleet.page()
    assert page.value("sd_backlog_jobs", model_key="other", lane="rest") == 50 * 3
    assert page.value("sd_backlog_waiting_jobs", model_key="other", lane="rest") == 50 * 2
    assert page.value("sd_backlog_oldest_wait_seconds", model_key="other", lane="rest") == 9.0


def test_later_names_get_no_place_though_the_first_are_gone() -> None:
    """Else a stranger could fill Prometheus, name by name."""
    fleet = Fleet()
    for number in range(200):
        fleet.tell(f"made-up-{number}")
        fleet.page()
    assert fleet.keys() == {"other"}


def test_models_that_the_operator_names_have_their_place_whatever_users_make_up() -> None:
    fleet = Fleet(["owner/mine", "other-owner/*"])
    fleet.tell(*(f"made-up-{number}" for number in range(100)))
    fleet.tell("owner/mine")
    assert fleet.keys() == {model_key("owner/mine")}


def test_a_backlog_of_long_ago_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet()
    fleet.tell("shapes")
    monkeypatch.setattr(heard_backlog, "_GOOD_FOR_S", 0.0)
    assert fleet.keys() == set()


def test_a_backlog_that_cannot_be_read_is_not_shown() -> None:
    fleet = Fleet()
    fleet.tell("shapes")
    fleet.tell_raw(b"{}")
    assert fleet.keys() == set()
