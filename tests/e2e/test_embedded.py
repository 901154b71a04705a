"""The one command: stops without a trace, and finds everything again at the next start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from pathlib import Path

import psutil
import pytest
from nats.aio.msg import Msg
from pydantic import SecretStr

from sd_common.blob_ids import new_blob_id
from sd_common.job_queue import JobQueue
from sd_common.jobs import Job
from sd_common.nats_client import connect
from sd_common.nats_settings import NatsSettings
from sd_common.parameters import Txt2ImgParameters
from sd_embedded.app import CannotStart, make_private
from support import broken_device
from support.client import Client
from support.connections import connected, is_let_in
from support.stack import EmbeddedStack, running_stack
from support.waiting import PATIENCE_S

_SHORT = {"prompt": "x", "model": "shapes", "steps": 1, "width": 64, "height": 64}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _wait_until_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []


async def test_ctrl_c_stops_everything_and_the_next_start_finds_users_tasks_and_pictures(
    tmp_path: Path, model_dir: Path
) -> None:
    # A nats-server that starts again gives out what was handed back before only then.
    env = {"ENABLE_SIGNUP": "1", "JOB_ACK_WAIT_S": "2"}
    stack = EmbeddedStack(tmp_path, model_dir, env)
    stack.wait_until_ready()
    family = _family(stack.process.pid)
    assert {process.name() for process in family} >= {"nats-server", "weed"}
    async with Client(stack.base_url) as client:
        await client.sign_up_and_log_in("ada")
        async with client.events() as events:
            finished = (await events.of_task(await client.submit(**_SHORT)))[-1]
        path = finished["result"]["blob_url"].removeprefix(stack.base_url)
        picture = (await client.get(path)).body
        queued = [await client.submit(**_SHORT | {"steps": 100}) for _ in range(3)]
    os.kill(stack.process.pid, signal.SIGINT)
    assert await asyncio.to_thread(stack.process.wait, PATIENCE_S) == 0
    await asyncio.to_thread(_wait_until_gone, family)

    with running_stack(tmp_path, model_dir, env) as stack:
        async with Client(stack.base_url, client.token) as client:
            assert await client.last_event(finished["task_id"]) == finished
            assert (await client.get_once_there(path)).body == picture
            answer = await client.post("/token", data={"username": "ada", "password": "correct horse"})
            assert answer.status == 200
            for task_id in queued:
                assert (await client.ended(task_id))["event_type"] == "finished"


async def test_a_device_that_fails_ends_it_and_what_was_asked_for_is_made_after_the_next_start(
    tmp_path: Path, model_dir: Path
) -> None:
    env = {"ENABLE_PUBLIC_ACCESS": "1", "JOB_ACK_WAIT_S": "2"}
    stack = EmbeddedStack(tmp_path, model_dir, env, runner=(sys.executable, broken_device.__file__))
    stack.wait_until_ready()
    async with Client(stack.base_url) as client:
        await client.take_public_token()
        task_id = await client.submit(**_SHORT)
    assert await asyncio.to_thread(stack.process.wait, PATIENCE_S) == 1
    assert "The worker's engine has failed, as the log tells: start this again" in stack.new_log.splitlines()[-1]

    with running_stack(tmp_path, model_dir, env) as stack:
        async with Client(stack.base_url, client.token) as client:
            assert (await client.ended(task_id))["event_type"] == "finished"


async def test_killing_it_leaves_no_server_behind(tmp_path: Path, model_dir: Path) -> None:
    stack = EmbeddedStack(tmp_path, model_dir, {"WORKERS": "0"})
    stack.wait_until_ready()
    family = _family(stack.process.pid)
    stack.process.kill()
    await asyncio.to_thread(_wait_until_gone, family)


async def test_it_listens_on_loopback_alone(stack: EmbeddedStack) -> None:
    addresses = {
        connection.laddr.ip
        for process in _family(stack.process.pid)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["secrets.json", "publisher.env"])
def test_secrets_are_kept_readable_by_their_owner_alone(stack: EmbeddedStack, name: str) -> None:
    assert (stack.directory / "data" / name).stat().st_mode & 0o777 == 0o600


def test_data_are_kept_readable_by_their_owner_alone(stack: EmbeddedStack) -> None:
    assert (stack.directory / "data").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_was_readable_by_others_is_no_longer(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="set DATA_DIR to another one"):
        make_private(tmp_path / "file")


@pytest.mark.parametrize("names", [("letter.txt",), ("lock", "log"), (".hidden",)])
def test_a_directory_of_other_things_is_left_as_it_is(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    tmp_path.chmod(0o755)
    with pytest.raises(CannotStart, match="files in it that are not of this service: set DATA_DIR to a directory of"):
        make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "names",
    [("lost+found",), ("lock", ".secrets.json.new"), ("lock", "secrets.json", "note"), ("lock", "nats", "s3", "note")],
)
def test_a_directory_of_ours_is_taken_also_after_a_start_that_was_cut_short(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


async def test_a_program_on_this_machine_queues_jobs_as_a_publisher(stack: EmbeddedStack) -> None:
    name, _, url = (stack.directory / "data" / "publisher.env").read_text().strip().partition("=")
    assert name == "NATS_URL"
    client = await connect(NatsSettings(_env_file=None, nats_url=SecretStr(url)), "test")
    told: asyncio.Queue[Msg] = asyncio.Queue()
    await client.subscribe("feed.internal.>", cb=told.put)
    job = Job(
        task_id=str(uuid.uuid4()),
        user="internal",
        session="test",
        blob_id=new_blob_id(),
        parameters=Txt2ImgParameters.model_validate(_SHORT),
    )
    await JobQueue(client).publish(job)
    async with asyncio.timeout(PATIENCE_S):
        while (event := json.loads((await told.get()).data))["event_type"] != "finished":
            pass
    assert event["task_id"] == job.task_id
    last = await client.request(f"$JS.API.DIRECT.GET.EVENTS.{job.ref.events}")
    assert json.loads(last.data) == event
    await client.shut()


@pytest.mark.parametrize("user", ["gateway", "auth", "worker", "internal"])
async def test_nobody_does_on_nats_what_its_user_may_not(stack: EmbeddedStack, user: str) -> None:
    """With the passwords that the parts have here. All that each may and may not do is in the tests of the users."""
    data = stack.directory / "data"
    password = json.loads((data / "secrets.json").read_text())["nats_passwords"][user]
    url = "nats://" + (data / "publisher.env").read_text().strip().rpartition("@")[2]
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    settings = NatsSettings(
        _env_file=None, nats_url=SecretStr(url), nats_user=user, nats_password=SecretStr(password), nats_tls_ca=None
    )
    async with connected(settings) as client:
        client._error_cb = note
        await client.publish("$JS.API.STREAM.DELETE.JOBS")
        await client.subscribe("jobs.>")
        await client.flush()  # the server tells of each violation before it answers
    assert [("publish" in line, "subscription" in line) for line in refused] == [(True, False), (False, True)], refused
    assert await is_let_in(url, user=user, **{"pass": password})
    assert not await is_let_in(url, user=user, **{"pass": "guessed"})
    assert not await is_let_in(url)


async def test_data_of_a_version_without_users_of_nats_goes_on(tmp_path: Path, model_dir: Path) -> None:
    env = {"ENABLE_SIGNUP": "1", "WORKERS": "0"}
    with running_stack(tmp_path, model_dir, env) as stack:
        async with Client(stack.base_url) as client:
            await client.sign_up_and_log_in("ada")
            task_id = await client.submit(**_SHORT)
    secrets = stack.directory / "data" / "secrets.json"
    kept = json.loads(secrets.read_text())
    del kept["nats_passwords"]
    secrets.write_text(json.dumps(kept))
    streams = stack.directory / "data" / "nats" / "store" / "jetstream"
    (streams / "STREAMS").rename(streams / "$G")

    with running_stack(tmp_path, model_dir, env) as stack:
        async with Client(stack.base_url, client.token) as client:
            assert (await client.last_event(task_id))["event_type"] == "pending"
            answer = await client.post("/token", data={"username": "ada", "password": "correct horse"})
            assert answer.status == 200
        assert json.loads(secrets.read_text()).items() >= kept.items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("PORT", ["Cannot listen on {address}", "set PORT to another one"]),
        ("HEALTH_PORT", ["cannot serve health on {address} (HEALTH_HOST, HEALTH_PORT)"]),
    ],
)
def test_a_port_that_is_taken_is_told(tmp_path: Path, model_dir: Path, name: str, told: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = EmbeddedStack(tmp_path, model_dir, {name: str(port)})
        assert stack.process.wait(PATIENCE_S) == 1
    for words in told:
        assert words.format(address=f"127.0.0.1:{port}") in stack.log
    assert "Traceback" not in stack.log


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DATA_DIR", "/tmp/" + "x" * 250, "set DATA_DIR to a shorter one"),
        ("DATA_DIR", ".", "set DATA_DIR to a directory of its own"),  # with the log in it
        ("HOST", "host.invalid", "set HOST to an address of this machine"),
        ("HOST", "192.0.2.1", "set HOST to an address of this machine"),
        ("DEVICE", "abacus", "Device 'abacus' is unknown: take auto, cpu"),
        ("DTYPE", "int8", "Number format 'int8' is unknown: take auto, float16"),
        ("JOBS_MAX_BYTES", str(2**60), "set DATA_DIR to a directory of another one, or set JOBS_MAX_BYTES lower"),
    ],
)
def test_what_it_cannot_start_with_is_told_in_a_sentence(
    tmp_path: Path, model_dir: Path, name: str, value: str, sentence: str
) -> None:
    stack = EmbeddedStack(tmp_path, model_dir, {name: value})
    assert stack.process.wait(PATIENCE_S) == 1
    assert sentence in stack.log.splitlines()[-1]
    assert "Traceback" not in stack.log


def test_all_wrong_settings_are_told_at_once_and_nothing_is_started(tmp_path: Path, model_dir: Path) -> None:
    wrong = {
        "PORT": "abc",
        "WORKERS": "many",
        "ENABLE_SIGNUP": "maybe",
        "MODEL_MEMORY_BUDGET": "8GB",
        "EVENTS_MAX_AGE_S": "-1",
        "PICTURES_MAX_AGE_DAYS": "0",
        "BASE_URL": "localhost:8000",
        "LOG_FORMAT": "xml",
        "OTEL_TRACES_SAMPLER": "some",
    }
    stack = EmbeddedStack(tmp_path, model_dir, wrong)
    assert stack.process.wait(PATIENCE_S) == 2
    first, *lines = stack.log.splitlines()
    assert first == "Wrong settings:"
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(wrong)
    assert not (stack.directory / "data").exists()


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"ALLOWED_MODELS": "other/model"}, "DEFAULT_MODEL is 'shapes', which ALLOWED_MODELS does not allow"),
        ({"ENABLE_SIGNUP": "maybe"}, "ENABLE_SIGNUP: must be one of 1, 0, true, false, yes, no, on, off"),
        ({"SAFETY_FILTER": "perhaps"}, "SAFETY_FILTER: Input should be 'optional' or 'required'"),
        ({"PORT": "eighty"}, "PORT: Input should be a valid integer"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY: needs at least 32 characters"),
    ],
)
def test_a_wrong_setting_is_told_at_start(tmp_path: Path, model_dir: Path, env: dict[str, str], sentence: str) -> None:
    stack = EmbeddedStack(tmp_path, model_dir, env)
    assert stack.process.wait(PATIENCE_S) == 2
    assert sentence in stack.log
    assert next(iter(env.values())) not in stack.log.replace(sentence, "")
    assert "Traceback" not in stack.log


async def test_a_second_start_on_the_same_data_is_refused_with_a_sentence(
    stack: EmbeddedStack, tmp_path: Path, model_dir: Path
) -> None:
    second = EmbeddedStack(tmp_path, model_dir, {"DATA_DIR": str(stack.directory / "data")})
    assert await asyncio.to_thread(second.process.wait, PATIENCE_S) == 1
    assert "Another process uses" in second.log
    assert "set DATA_DIR to another directory" in second.log
    async with Client(stack.base_url) as client:
        assert (await client.get("/readyz")).status == 200


async def test_servers_that_die_are_started_again(tmp_path: Path, model_dir: Path) -> None:
    with running_stack(tmp_path, model_dir, {"ENABLE_PUBLIC_ACCESS": "1"}) as stack:
        async with Client(stack.base_url) as client:
            await client.take_public_token()
            picture = (await client.get("/txt2img", params={name: str(value) for name, value in _SHORT.items()})).json
            for process in _family(stack.process.pid):
                if process.name() in ("nats-server", "weed"):
                    process.kill()
            stack.wait_for_log("server_ended")
            await client.until_ready()
            # weed answers some seconds before it knows of what it stored.
            assert (await client.get_once_there(picture["blob_url"])).status == 200
            async with client.events() as events:
                assert (await events.of_task(await client.submit(**_SHORT)))[-1]["event_type"] == "finished"
