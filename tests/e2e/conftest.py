"""The whole embedded service, once for all e2e tests that only use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.client import Client
from support.stack import EmbeddedStack, make_model_dir, running_stack


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("e2e") / "models")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[EmbeddedStack]:
    """Open to all: sign-up and public access are on."""
    env = {"ENABLE_SIGNUP": "1", "ENABLE_PUBLIC_ACCESS": "yes", "HEALTH_PORT": "0"}
    with running_stack(tmp_path_factory.mktemp("stack"), model_dir, env) as stack:
        yield stack


@pytest_asyncio.fixture
async def client(stack: EmbeddedStack) -> AsyncIterator[Client]:
    """Has no token."""
    async with Client(stack.base_url) as client:
        yield client


@pytest_asyncio.fixture
async def session(client: Client) -> Client:
    """Has a public token of its own."""
    await client.take_public_token()
    return client


@pytest.fixture
def stack_url(stack: EmbeddedStack) -> str:
    return stack.base_url
