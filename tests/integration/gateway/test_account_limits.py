"""Sign-ups, log-ins and public tokens that come too often, at a running gateway."""

from __future__ import annotations

from integration.gateway.conftest import StartGateway

from sd_gateway.rate_limits import Rate
from support.client import Answered, Client

_PASSWORD = "correct horse"


async def _log_in(client: Client, username: str, address: str = "") -> Answered:
    headers = {"X-Forwarded-For": address} if address else {}
    return await client.post("/token", data={"username": username, "password": _PASSWORD}, headers=headers)


def _assert_told_to_wait(answer: Answered, told: str) -> None:
    assert answer.status == 429, answer.body
    assert 0 < int(answer.headers["Retry-After"]) <= 3600
    assert told in answer.json["detail"]
    assert f"try again in {answer.headers['Retry-After']} s" in answer.json["detail"]


async def test_log_ins_of_one_address_are_limited_whatever_the_name_and_the_way(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(log_in_rate=Rate(3, 3600))
    async with Client(base_url) as client:
        for name in ("ada", "grace"):
            assert (await _log_in(client, name)).status == 401
        assert (await client.post("/token/hedy", params={"password": _PASSWORD})).status == 401
        _assert_told_to_wait(await _log_in(client, "joan"), "log-ins from your address")
        told = await client.post("/token/joan", params={"password": _PASSWORD})
        _assert_told_to_wait(told, "log-ins from your address")
        assert (await client.post("/token/all")).status == 200  # has a limit of its own


async def test_log_ins_with_one_name_are_limited_wherever_they_come_from(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(name_rate=Rate(3, 3600), trusted_proxies="127.0.0.0/8")
    async with Client(base_url) as client:
        for number in range(3):
            assert (await _log_in(client, "ada", f"198.51.100.{number}")).status == 401
        _assert_told_to_wait(await _log_in(client, "ada", "198.51.100.77"), "log-ins with this name")
        assert (await _log_in(client, "grace", "198.51.100.77")).status == 401


async def test_an_address_that_has_used_up_its_own_uses_up_nobodys_name(start_gateway: StartGateway) -> None:
    rates = {"log_in_rate": Rate(2, 3600), "name_rate": Rate(3, 3600)}
    _, base_url = await start_gateway(**rates, trusted_proxies="127.0.0.1")
    async with Client(base_url) as client:
        for _ in range(10):
            await _log_in(client, "ada", "198.51.100.1")
        assert (await _log_in(client, "ada", "198.51.100.2")).status == 401


async def test_sign_ups_are_limited(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(sign_up_rate=Rate(2, 3600))
    async with Client(base_url) as client:
        body = {"username": "ada", "password": _PASSWORD}
        assert (await client.post("/user", json=body)).status == 200
        assert (await client.post("/user/grace", params={"password": _PASSWORD})).status == 200
        _assert_told_to_wait(await client.post("/user", json={**body, "username": "hedy"}), "sign-ups")
        assert (await _log_in(client, "ada")).status == 200


async def test_sign_ups_with_one_name_are_limited_wherever_they_come_from(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(name_rate=Rate(2, 3600), trusted_proxies="127.0.0.0/8")
    body = {"username": "ada", "password": _PASSWORD}
    async with Client(base_url) as client:
        for number, status in enumerate((200, 409)):
            headers = {"X-Forwarded-For": f"198.51.100.{number}"}
            assert (await client.post("/user", json=body, headers=headers)).status == status
        told = await client.post("/user", json=body, headers={"X-Forwarded-For": "198.51.100.77"})
        _assert_told_to_wait(told, "sign-ups and log-ins with this name")
        grace = await client.post("/user", json={**body, "username": "grace"})
        assert grace.status == 200


async def test_public_tokens_are_limited(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(public_token_rate=Rate(2, 3600))
    async with Client(base_url) as client:
        for _ in range(2):
            assert (await client.post("/token/all")).status == 200
        _assert_told_to_wait(await client.post("/token/all"), "public tokens")


async def test_a_stranger_cannot_say_that_it_is_somebody_else(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(log_in_rate=Rate(1, 3600), trusted_proxies="10.0.0.0/8")
    async with Client(base_url) as client:
        assert (await _log_in(client, "ada", "198.51.100.1")).status == 401
        assert (await _log_in(client, "ada", "198.51.100.2")).status == 429


async def test_addresses_of_one_ipv6_network_are_one(start_gateway: StartGateway) -> None:
    _, base_url = await start_gateway(log_in_rate=Rate(1, 3600), trusted_proxies="127.0.0.1")
    async with Client(base_url) as client:
        assert (await _log_in(client, "ada", "2001:db8::1")).status == 401
        assert (await _log_in(client, "ada", "2001:db8::ffff:1")).status == 429
        assert (await _log_in(client, "ada", "2001:db8:0:1::1")).status == 401
