"""A process that loads models again and again stays as large as it is."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from unit.engine.recorder import EngineUnderTest, txt2img

_MODELS = ("sd1", "flags-none", "owner/sd2")
#: A tiny model that was kept each time would make more.
_MOST_GROWTH = 0.05


def test_models_that_come_and_go_leave_nothing_behind(create_engine: Callable[..., EngineUnderTest]) -> None:
    engine = create_engine(budget_bytes=1)

    def run(num_rounds: int) -> int:
        for number in range(num_rounds):
            for model in _MODELS:
                engine.finish(txt2img(f"{model}-{number}", model=model, steps=1, prompt=f"picture {number}"))
        return psutil.Process().memory_info().rss

    before = run(3)
    after = run(8)

    assert after / before - 1 < _MOST_GROWTH
