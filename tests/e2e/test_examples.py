"""The programs in `examples/`, as a newcomer runs them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from support.client import Client
from support.stack import REPOSITORY, EmbeddedStack
from support.waiting import PATIENCE_S

_STAR = "a big red star on a white background"


async def _run(env: Mapping[str, str], example: str, *arguments: str) -> tuple[int | None, list[str]]:
    """Its exit status, and the lines that it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        REPOSITORY / "examples" / example,
        *arguments,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode, output.decode().splitlines()


@pytest.fixture
def publisher_env(stack: EmbeddedStack) -> dict[str, str]:
    """As `set -a; . data/publisher.env` sets it. A server that asks for no password takes any."""
    file = stack.directory / "data" / "publisher.env"
    if file.exists():
        return dict(line.split("=", 1) for line in file.read_text().split())
    log = (stack.directory / "data" / "nats" / "log").read_text()
    address = re.findall(r"Listening for client connections on (\S+)", log)[-1]
    return {"NATS_URL": f"nats://internal:any@{address}"}


async def test_a_publisher_gets_a_picture(publisher_env: dict[str, str], client: Client) -> None:
    status, lines = await _run(publisher_env, "submit_job.py", _STAR)
    assert status == 0, lines
    assert lines[0].startswith("task ")
    assert "denoising 20 of 20" in lines
    assert (await client.picture(lines[-1].removeprefix("picture "))).size == (192, 192)


async def test_a_publisher_that_is_not_let_in_is_told_what_to_do() -> None:
    status, lines = await _run({"NATS_URL": "nats://127.0.0.1:1"}, "submit_job.py", _STAR)
    assert status == 1
    assert "data/publisher.env" in lines[-1]


async def test_a_client_of_the_rest_api_saves_a_picture(stack: EmbeddedStack, tmp_path: Path) -> None:
    file = tmp_path / "star.png"
    status, lines = await _run({"API": stack.base_url, "TOKEN": ""}, "rest.py", _STAR, str(file))
    assert status == 0, lines
    assert {"pending", "started", "denoising 20 of 20"} <= set(lines)
    assert lines[-1] == f"saved as {file}"
    with Image.open(file) as picture:
        assert picture.size == (192, 192)


async def test_a_client_of_the_rest_api_is_told_what_is_wrong(stack: EmbeddedStack, tmp_path: Path) -> None:
    status, lines = await _run({"API": stack.base_url, "TOKEN": "wrong"}, "rest.py", _STAR, str(tmp_path / "x"))
    assert (status, len(lines)) == (1, 1)
    assert lines[0].startswith("401 ")
    status, lines = await _run({"API": "http://127.0.0.1:1"}, "rest.py", _STAR, str(tmp_path / "x"))
    assert status == 1
    assert "make run" in lines[-1]


@pytest.mark.parametrize("example", ["submit_job.py", "rest.py"])
async def test_an_example_without_arguments_tells_how_it_is_run(example: str) -> None:
    status, lines = await _run({}, example)
    assert status == 1
    assert any(f"examples/{example}" in line for line in lines)
