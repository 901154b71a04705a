"""Users and tokens over REST."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.client import Client
from support.stack import EmbeddedStack, running_stack

_JSON = {"Content-Type": "application/json"}


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


async def test_who_logs_out_is_out(session: Client) -> None:
    async with session.events() as events:
        assert (await session.delete("/token")).status == 204
        assert (await events.socket.receive(20)).data == 1008
    answer = await session.get("/task/none")
    assert answer.status == 401
    assert "revoked" in answer.json["detail"]


@pytest.fixture(scope="module")
def telling_stack(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[EmbeddedStack]:
    """A stack of its own, which logs all that it can."""
    env = {"ENABLE_SIGNUP": "1", "LOG_LEVEL": "DEBUG", "WORKERS": "0"}
    with running_stack(tmp_path_factory.mktemp("telling"), model_dir, env) as stack:
        yield stack


async def test_passwords_and_tokens_are_in_no_log_and_no_answer(telling_stack: EmbeddedStack) -> None:
    secret = "swordfish"
    password = f"{secret}-{secret}"
    async with Client(telling_stack.base_url) as client:
        answers = [
            await client.post("/user", json={"username": "eve", "password": password}),
            await client.post("/user", json={"username": "eve", "password": password}),
            await client.post("/user/mallory", params={"password": password}),
            await client.post("/user", json={"username": "e v e", "password": password}),
            await client.post("/user", json={"username": "eve2", "password": [password]}),
            await client.post("/user", json={"username": "eve2", "password": secret * 200}),
            await client.post("/user", json={"username": "eve2", "password": password, "more": password}),
            await client.post("/user", data=f'{{"username": "eve", "password": "{password}" ', headers=_JSON),
            await client.post("/user", data={"username": "eve", "password": password}),
            await client.post("/token", data={"username": "nobody", "password": password}),
            await client.post("/token", data={"username": "eve", "password": password + "x"}),
            await client.post("/token", data={"password": password}),
            await client.post("/token", json={"username": "eve", "password": password}),
            await client.post("/token/eve", params={"password": password + "x"}),
            await client.post("/token/e.v.e", params={"password": password}),
            await client.get("/user/eve", params={"password": password}),
            await client.post("/nowhere", params={"password": password}),
            await client.post("/token/eve", params={"password": password}, headers={"X-Long": secret * 100_000}),
        ]
        await client.sign_up_and_log_in("ada", password)
        token = client.token
        assert token
        answers += [
            await client.get("/task/none"),
            await client.get("/task/none", params={"token": token}),
            await client.get("/txt2img", params={"token": token, "steps": "x"}),
            await client.delete("/token"),
            await client.get("/task/none", params={"token": token}),
        ]
    assert {answer.status for answer in answers} >= {200, 204, 400, 401, 404, 405, 409, 415, 422}
    for answer in answers:
        assert secret not in answer.body.decode() + str(answer.headers), answer
        assert token not in answer.body.decode() + str(answer.headers), answer
    assert "auth_request" in telling_stack.log
    assert secret not in telling_stack.log
    assert token not in telling_stack.log
    assert token.rpartition(".")[2] not in telling_stack.log
