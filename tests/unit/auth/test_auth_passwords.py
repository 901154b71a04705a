"""Password hashes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError

from sd_auth.passwords import Passwords


@pytest_asyncio.fixture
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    await made.aclose()


async def test_a_hash_matches_its_password_alone(passwords: Passwords) -> None:
    password_hash = await passwords.hash("pässwörd 🔑")
    assert await passwords.matches(password_hash, "pässwörd 🔑")
    assert not await passwords.matches(password_hash, "pässwörd")


async def test_hashes_of_one_password_differ(passwords: Passwords) -> None:
    assert await passwords.hash("password") != await passwords.hash("password")


async def test_hashes_state_owasp_parameters(passwords: Passwords) -> None:
    assert (await passwords.hash("password")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_nothing_matches_an_unknown_user(passwords: Passwords) -> None:
    assert not await passwords.matches(None, "password")
    assert not await passwords.matches(None, "")


async def test_other_parameters_are_outdated(passwords: Passwords) -> None:
    assert not passwords.is_outdated(await passwords.hash("password"))
    assert passwords.is_outdated(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("password"))


async def test_what_is_no_hash_is_an_error_not_a_mismatch(passwords: Passwords) -> None:
    with pytest.raises(InvalidHashError):
        await passwords.matches("no hash", "password")
