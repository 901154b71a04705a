"""What is measured, in a process of its own: in one, the threads of several would slow each other down
(`sd_worker.engine.cores`)."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import torch

Measured = TypeVar("Measured")
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

#: That of this process.
_created: list[Any] = []


class Apart(Generic[Measured]):
    """Something that was created in another process, and is asked there. It waits while others are measured."""

    def __init__(self, create: Callable[[], Measured], num_cores: int = os.cpu_count() or 1) -> None:
        """`create` can be pickled."""
        spawn = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, spawn, _create, (create, num_cores))

    def ask(
        self, method: Callable[Concatenate[Measured, Asked], Answer], *asked: Asked.args, **named: Asked.kwargs
    ) -> Answer:
        return self._process.submit(_ask, method, asked, named).result()

    def stop(self) -> None:
        self._process.shutdown()


def _create(create: Callable[[], object], num_cores: int) -> None:
    torch.set_num_threads(num_cores)
    _created.append(create())


def _ask(method: Callable[..., Answer], asked: tuple[object, ...], named: dict[str, object]) -> Answer:
    return method(_created[0], *asked, **named)
