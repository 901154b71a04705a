"""Signing up and logging in."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest
from argon2 import PasswordHasher
from structlog.testing import capture_logs

from sd_auth.app import AuthApp
from sd_auth.errors import UserExists
from sd_auth.passwords import Passwords
from sd_auth.users import UserRecord, Users
from sd_common.auth_messages import LOG_IN, SIGN_UP, AccessToken, User
from sd_common.buckets import Bucket
from sd_common.nats_client import NatsClient
from sd_common.nats_settings import NatsSettings
from sd_common.streams import USERS_BUCKET
from support.auth_requests import PASSWORD, Refused, StartAuth, ask, create_auth_settings, log_in, sign_up


async def test_who_signed_up_can_log_in(auth: AuthApp, nats_client: NatsClient) -> None:
    assert (await sign_up(nats_client, "alice")).username == "alice"
    assert (await log_in(nats_client, "alice")).expires_in == 240 * 60


async def test_a_taken_name_is_refused_and_its_password_stays(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")
    with pytest.raises(Refused) as refused:
        await sign_up(nats_client, "alice", "another password")
    assert refused.value.code == "409"
    assert refused.value.sentence == "User 'alice' already exists"
    await log_in(nats_client, "alice", PASSWORD)


async def test_of_concurrent_sign_ups_of_one_name_exactly_one_wins(
    auth: AuthApp, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    await start_auth(create_auth_settings())  # a second replica
    passwords = [f"password of attempt {attempt}" for attempt in range(12)]
    results = await asyncio.gather(*(sign_up(nats_client, "bob", p) for p in passwords), return_exceptions=True)
    winners = [p for p, result in zip(passwords, results, strict=True) if isinstance(result, User)]
    losers = [result.code for result in results if isinstance(result, Refused)]
    assert len(winners) == 1
    assert losers == ["409"] * 11
    await log_in(nats_client, "bob", winners[0])


async def test_sign_up_can_be_disabled(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    await start_auth(create_auth_settings(enable_signup=False))
    with pytest.raises(Refused) as refused:
        await sign_up(nats_client, "alice")
    assert refused.value.code == "403"
    assert refused.value.sentence == "Sign-up is disabled: the operator can set ENABLE_SIGNUP=1"


@pytest.mark.parametrize("username", ["all", "internal", "default_", "default_0123"])
async def test_names_of_the_service_itself_are_refused(username: str, auth: AuthApp, nats_client: NatsClient) -> None:
    with pytest.raises(Refused) as refused:
        await sign_up(nats_client, username)
    assert refused.value.code == "422"
    assert "reserved" in refused.value.sentence


@pytest.mark.parametrize(
    ("request_json", "told"),
    [
        (b'{"username": "a b", "password": "hunter2hunter2"}', "The username must be 1 to 64 letters"),
        (b'{"username": "", "password": "hunter2hunter2"}', "The username must be 1 to 64 letters"),
        (b'{"username": "a.b\\r\\nX: y", "password": "hunter2hunter2"}', "The username must be 1 to 64 letters"),
        (b'{"username": "alice", "password": "hunter2"}', "The password must have 8 to 1024 characters"),
        (b'{"username": "alice", "password": "%s"}' % (b"hunter2" * 200), "The password must have 8 to 1024"),
        (b'{"username": "alice"}', "The password must have 8 to 1024 characters"),
        (b'{"v": 2, "username": "alice", "password": "hunter2hunter2"}', "The request's 'v' is wrong"),
        (b"[]", "The request must be a JSON object"),
        (b"\xff", "The request must be a JSON object"),
    ],
)
async def test_wrong_fields_are_told_without_their_values(
    request_json: bytes, told: str, auth: AuthApp, nats_client: NatsClient
) -> None:
    with pytest.raises(Refused) as refused:
        await ask(nats_client, SIGN_UP, User, request_json)
    assert refused.value.code == "422"
    assert refused.value.sentence.startswith(told)
    assert "hunter2" not in refused.value.sentence


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")
    for username in ("alice", "nobody"):
        with pytest.raises(Refused) as refused:
            await log_in(nats_client, username, "wrong password")
        assert (refused.value.code, refused.value.sentence) == ("401", "Incorrect username or password")


async def test_an_unknown_user_costs_as_much_time_as_a_wrong_password(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")

    durations_s: dict[str, list[float]] = {"alice": [], "nobody": []}
    for _ in range(7):
        for username, of_user in durations_s.items():  # in turns, so that both meet what else the machine does
            started_at = time.perf_counter()
            with pytest.raises(Refused):
                await log_in(nats_client, username, "wrong password")
            of_user.append(time.perf_counter() - started_at)

    # Without a hash of its own an unknown user would be told apart by a factor of 10 and more.
    assert statistics.median(durations_s["nobody"]) > statistics.median(durations_s["alice"]) / 3


async def test_a_user_whose_password_is_shorter_than_new_ones_can_be_logs_in(
    auth: AuthApp, nats_client: NatsClient
) -> None:
    users, passwords = Users(Bucket(nats_client, USERS_BUCKET)), Passwords()
    await users.create(UserRecord(username="alice", password_hash=await passwords.hash("short")))
    await passwords.aclose()
    assert (await log_in(nats_client, "alice", "short")).access_token


async def test_a_short_password_is_wrong_not_invalid_at_log_in(auth: AuthApp, nats_client: NatsClient) -> None:
    with pytest.raises(Refused) as refused:
        await ask(nats_client, LOG_IN, AccessToken, b'{"username": "alice", "password": "x"}')
    assert refused.value.code == "401"


async def test_a_hash_of_older_parameters_is_renewed_at_log_in(auth: AuthApp, nats_client: NatsClient) -> None:
    users, passwords = Users(Bucket(nats_client, USERS_BUCKET)), Passwords()
    old_hash = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    await users.create(UserRecord(username="alice", password_hash=old_hash))
    await log_in(nats_client, "alice")
    found = await users.find("alice")
    assert found is not None
    assert not passwords.is_outdated(found.record.password_hash)
    await log_in(nats_client, "alice")
    await passwords.aclose()


async def test_the_names_of_publishers_are_reserved(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    """Whoever had one could read the publisher's tasks at the gateway, and the publisher theirs."""
    await start_auth(create_auth_settings().model_copy(update={"publishers": ("billing",)}))
    with pytest.raises(Refused) as refused:
        await sign_up(nats_client, "billing")
    assert (refused.value.code, "reserved" in refused.value.sentence) == ("422", True)


async def test_who_signed_up_with_a_name_before_it_was_a_publishers_cannot_log_in(
    provisioned: NatsSettings, start_auth: StartAuth, nats_client: NatsClient
) -> None:
    before = await start_auth(create_auth_settings())
    await sign_up(nats_client, "billing")
    await before.stop()
    with capture_logs() as logs:
        await start_auth(create_auth_settings().model_copy(update={"publishers": ("billing", "other")}))
    assert [entry["user"] for entry in logs if entry["event"] == "publisher_is_a_user"] == ["billing"]
    with pytest.raises(Refused) as refused:
        await log_in(nats_client, "billing")
    assert refused.value.code == "422"
    assert refused.value.sentence == "The username 'billing' is reserved: nobody can log in with it"


async def test_storing_the_same_record_again_is_no_conflict(provisioned: NatsSettings, nats_client: NatsClient) -> None:
    """As when the answer to the first try was lost and the request is repeated."""
    users = Users(Bucket(nats_client, USERS_BUCKET))
    record = UserRecord(username="alice", password_hash="one salt")
    await users.create(record)
    await users.create(record)
    with pytest.raises(UserExists):
        await users.create(record.model_copy(update={"password_hash": "another salt"}))


async def test_a_deleted_user_can_sign_up_again(auth: AuthApp, nats_client: NatsClient) -> None:
    await sign_up(nats_client, "alice")
    assert await Users(Bucket(nats_client, USERS_BUCKET)).delete("alice")
    with pytest.raises(Refused) as refused:
        await log_in(nats_client, "alice")
    assert refused.value.code == "401"
    await sign_up(nats_client, "alice", "a new password")
    await log_in(nats_client, "alice", "a new password")
