"""What a client that did something wrong is told to do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from integration.gateway.conftest import StartGateway

from support.client import Client

_HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture
async def anybody(start_gateway: StartGateway) -> AsyncIterator[Client]:
    """Without a token, at a gateway that is open to all."""
    _, base_url = await start_gateway()
    async with Client(base_url) as client:
        yield client


@pytest.mark.parametrize("upgrade", [{}, {"Upgrade": "h2c", "Connection": "Upgrade"}])
async def test_who_asks_for_the_events_without_a_websocket(upgrade: dict[str, str], client: Client) -> None:
    answer = await client.get("/events", headers=upgrade)
    assert answer.status == 400
    assert answer.json["detail"].startswith("Here is a websocket: open it with a client for websockets")


@pytest.mark.parametrize("changed", [{"Sec-WebSocket-Version": "1"}, {"Sec-WebSocket-Key": "short"}])
async def test_whose_handshake_is_malformed(changed: dict[str, str], client: Client) -> None:
    answer = await client.get("/events", headers={**_HANDSHAKE, **changed})
    assert answer.status == 400
    assert answer.json["detail"].startswith("The handshake of the websocket is malformed: it needs `Connection")


async def test_who_signs_up_with_a_name_that_cannot_be_one(anybody: Client) -> None:
    answer = await anybody.post("/user", json={"username": "a b", "password": "correct horse"})
    assert answer.status == 422
    sentence = "Must be 1 to 64 letters, digits, '_' or '-'"
    assert answer.json["errors"] == [{"field": "username", "detail": sentence}]


@pytest.mark.parametrize("host", ["{base_url}", ""])
async def test_who_names_a_picture_that_is_none_here(host: str, client: Client) -> None:
    url = host.format(base_url=client.base_url) + "/blob/x"
    answer = await client.post("/task", json={"prompt": "x", "initial_image": url})
    assert answer.status == 422
    assert answer.json["errors"][0]["detail"].startswith("This URL of this service names no picture")


async def test_what_a_proxy_has_elsewhere_at_this_address_is_of_another_host(client: Client) -> None:
    answer = await client.post("/task", json={"prompt": "x", "initial_image": f"{client.base_url}/images/x.png"})
    assert answer.status == 422
    assert answer.json["errors"][0]["detail"].startswith("Pictures of other hosts are not fetched")


async def test_whose_token_was_lost_is_not_taken_for_the_public_user(anybody: Client) -> None:
    assert (await anybody.get("/task/none")).status == 404
    lost = [
        await anybody.get("/task/none?token="),
        await anybody.get("/task/none", headers={"Authorization": "Bearer "}),
    ]
    for answer in lost:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json["detail"].endswith("or leave it out")
