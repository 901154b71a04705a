"""Password hashes: argon2id, in threads of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

#: OWASP's first choice for argon2id with little memory. 27 ms and 19 MiB a hash (argon2-cffi's default takes 203 ms).
_MEMORY_KIB = 19 * 1024
_TIME_COST = 2
_PARALLELISM = 1
#: More hashes at once than cores make all of them slower, and each takes its memory.
_MAX_AT_ONCE = 4

T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=_TIME_COST, memory_cost=_MEMORY_KIB, parallelism=_PARALLELISM)
        self._dummy_hash = self._hasher.hash(secrets.token_urlsafe(32))
        self._threads = ThreadPoolExecutor(min(_MAX_AT_ONCE, os.cpu_count() or 1), thread_name_prefix="passwords")

    async def aclose(self) -> None:
        """Wait for the hashes under way and end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def hash(self, password: str) -> str:
        """The hash of `password`, with its salt and parameters."""
        return await self._run(lambda: self._hasher.hash(password))

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether `password` is right. A hash of None, an unknown user's, is never right but costs as much time."""
        right = await self._run(lambda: self._verify(password_hash or self._dummy_hash, password))
        return right and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
