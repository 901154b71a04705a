"""`GET /models`: what workers announce, as clients see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from integration.gateway.conftest import StartGateway
from nats.aio.msg import Msg
from structlog.testing import capture_logs

from sd_common import subjects
from sd_common.announcements import AnnouncedModel, WorkerAnnouncement
from sd_common.model_names import model_key
from sd_common.nats_client import NatsClient
from sd_common.parameters import DEFAULT_INPAINT_MODEL, DEFAULT_MODEL, DefaultParameters, TaskKind
from sd_embedded.nats_server import NatsServer
from support.client import Client, Json
from support.servers import restart
from support.waiting import PATIENCE_S, once, until

ALL_KINDS: list[TaskKind] = ["txt2img", "img2img", "inpaint"]


def announced(name: str, *, is_resident: bool = False, runs_alone: bool = False, **defaults: Any) -> AnnouncedModel:
    return AnnouncedModel(
        name=name,
        kinds=ALL_KINDS,
        default_parameters=DefaultParameters(**defaults),
        is_resident=is_resident,
        runs_alone=runs_alone,
    )


async def announce(client: NatsClient, worker: str, *models: AnnouncedModel, is_leaving: bool = False) -> None:
    announcement = WorkerAnnouncement(worker=worker, models=list(models), is_leaving=is_leaving)
    await client.publish(subjects.announcements_of(worker), announcement.model_dump_json().encode())


async def models_once(client: Client, is_as_expected: Callable[[dict[str, Json]], bool]) -> dict[str, Json]:
    """The models by name, once they are as expected: nobody tells when a gateway has heard something."""

    async def ask() -> dict[str, Json]:
        answer = await client.get("/models")
        assert answer.status == 200, answer.body
        return {model["name"]: model for model in answer.json["models"]}

    return await once(ask, is_as_expected)


async def test_models_are_told_with_how_many_workers_have_them(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway()
    await announce(nats_client, "a", announced("shapes", steps=4), announced("owner/sd2"))
    await announce(nats_client, "b", announced("shapes", steps=4, width=128, is_resident=True, runs_alone=True))
    async with Client(url) as client:
        models = await models_once(client, lambda models: models.get("shapes", {}).get("num_workers") == 2)
    assert list(models) == ["owner/sd2", "shapes"]
    assert models["shapes"] == {
        "name": "shapes",
        "model_key": model_key("shapes"),
        "kinds": ["txt2img", "img2img", "inpaint"],
        "default_parameters": {"width": 128, "height": None, "steps": 4, "guidance": None, "scheduler": None},
        "num_workers": 2,
        "num_workers_resident": 1,
        "runs_alone": True,
    }
    assert not models["owner/sd2"]["runs_alone"]
    assert (models["owner/sd2"]["num_workers"], models["owner/sd2"]["num_workers_resident"]) == (1, 0)


async def test_the_newest_announcement_of_a_worker_counts_until_it_leaves(
    start_gateway: StartGateway, nats_client: NatsClient
) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        await announce(nats_client, "a", announced("old"))
        await models_once(client, lambda models: list(models) == ["old"])
        await announce(nats_client, "a", announced("new"))
        await models_once(client, lambda models: list(models) == ["new"])
        await announce(nats_client, "a", is_leaving=True)
        await models_once(client, lambda models: models == {})


async def test_a_worker_that_has_been_silent_for_long_is_forgotten(
    start_gateway: StartGateway, nats_client: NatsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = await start_gateway()
    async with Client(url) as client:
        await announce(nats_client, "a", announced("shapes"))
        await models_once(client, lambda models: list(models) == ["shapes"])
        monkeypatch.setattr("sd_gateway.served_models.SILENCE_S", 0.0)
        assert await models_once(client, lambda models: True) == {}


async def test_the_roll_is_called_at_the_gateways_start_and_when_it_was_cut_off(
    start_gateway: StartGateway, nats_client: NatsClient, nats_server: NatsServer
) -> None:
    """So that it need not wait for the announcements that come by themselves."""
    num_calls = 0

    async def answer(_: Msg) -> None:
        nonlocal num_calls
        num_calls += 1
        await announce(nats_client, "a", announced(f"call-{num_calls}"))

    await nats_client.subscribe(subjects.ROLL_CALL, cb=answer)
    await nats_client.flush()
    _, url = await start_gateway()
    async with Client(url) as client, asyncio.timeout(PATIENCE_S):
        await client.take_public_token()
        await models_once(client, lambda models: list(models) == ["call-1"])
        while num_calls == 1:  # a call that comes before this test's own connection is back is not heard
            await restart(nats_server)
            await until(lambda: nats_client.is_connected)
            await client.until_ready()
            await nats_client.flush()
        await models_once(client, lambda models: list(models) == [f"call-{num_calls}"])


async def test_what_is_no_announcement_is_ignored(start_gateway: StartGateway, nats_client: NatsClient) -> None:
    _, url = await start_gateway()
    await nats_client.publish(subjects.announcements_of("b"), b"nonsense")
    await announce(nats_client, "a", announced("shapes"))
    async with Client(url) as client:
        await models_once(client, lambda models: list(models) == ["shapes"])


@pytest.mark.parametrize(
    ("settings", "default_models"),
    [
        ({}, {"txt2img": DEFAULT_MODEL, "img2img": DEFAULT_MODEL, "inpaint": DEFAULT_INPAINT_MODEL}),
        ({"default_model": "shapes"}, {"txt2img": "shapes", "img2img": "shapes", "inpaint": "shapes"}),
        ({"allowed_models": ("shapes", DEFAULT_INPAINT_MODEL)}, {"inpaint": DEFAULT_INPAINT_MODEL}),
    ],
)
async def test_the_default_model_of_each_kind_is_told(
    start_gateway: StartGateway, settings: dict[str, Any], default_models: dict[str, str]
) -> None:
    _, url = await start_gateway(**settings)
    async with Client(url) as client:
        assert (await client.get("/models")).json == {"models": [], "default_models": default_models}


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"allowed_models": (DEFAULT_MODEL, DEFAULT_INPAINT_MODEL)}, []),
        ({"allowed_models": ("shapes",), "default_model": "shapes"}, []),
        ({"allowed_models": ("shapes",)}, [["txt2img", "img2img", "inpaint"]]),
    ],
)
async def test_a_gateway_that_refuses_tasks_without_a_model_warns_at_its_start(
    start_gateway: StartGateway, settings: dict[str, Any], kinds: list[list[TaskKind]]
) -> None:
    with capture_logs() as logs:
        await start_gateway(**settings)
    assert [line["kinds"] for line in logs if line["event"] == "no_default_model"] == kinds


async def test_a_token_that_is_not_valid_is_refused(start_gateway: StartGateway) -> None:
    _, url = await start_gateway()
    async with Client(url, "nonsense") as client:
        assert (await client.get("/models")).status == 401
