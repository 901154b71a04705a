"""Users and tokens over REST."""

from __future__ import annotations

import pytest

from support.client import Client
from support.stack import EmbeddedStack


async def test_a_user_signs_up_logs_in_and_finds_tasks_from_every_session(client: Client) -> None:
    await client.sign_up_and_log_in("ada")
    task_id = await client.submit(prompt="x", model="shapes", steps=1, width=64, height=64)
    first_token = client.token
    answer = await client.post("/token/ada", params={"password": "correct horse"})
    assert answer.status == 200
    assert answer.json["token_type"] == "bearer"
    assert answer.json["access_token"] != first_token
    client.token = answer.json["access_token"]
    assert (await client.last_event(task_id))["task_id"] == task_id


async def test_a_name_is_given_once(client: Client) -> None:
    body = {"username": "grace", "password": "long enough"}
    assert (await client.post("/user", json=body)).json == {"username": "grace"}
    answer = await client.post("/user/grace", params={"password": "long enough"})
    assert answer.status == 409
    assert "grace" in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"username": "all", "password": "long enough"}, 422),
        ({"username": "a.b", "password": "long enough"}, 422),
        ({"username": "bob", "password": "short"}, 422),
        ({"username": "bob"}, 422),
    ],
)
async def test_names_and_passwords_that_cannot_be_are_refused(
    client: Client, body: dict[str, str], status: int
) -> None:
    answer = await client.post("/user", json=body)
    assert answer.status == status, answer.body
    assert "short" not in answer.body.decode() or "at least 8" in answer.body.decode()


async def test_a_wrong_password_and_an_unknown_user_are_told_alike(client: Client) -> None:
    await client.sign_up_and_log_in("hedy")
    client.token = None
    wrong = await client.post("/token", data={"username": "hedy", "password": "wrong wrong"})
    unknown = await client.post("/token", data={"username": "nobody", "password": "wrong wrong"})
    assert wrong.status == unknown.status == 401
    assert wrong.json == unknown.json


async def test_passwords_are_not_logged(client: Client, stack: EmbeddedStack) -> None:
    await client.post("/user/eve", params={"password": "do not log me"})
    await client.post("/token/eve", params={"password": "do not log me"})
    assert "do not log me" not in stack.log
    assert "do+not+log+me" not in stack.log
