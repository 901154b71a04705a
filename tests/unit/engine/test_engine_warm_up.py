"""What is measured and compiled at a model's first pass is so before the worker takes jobs."""

from __future__ import annotations

import asyncio

import pytest
from unit.engine.recorder import CPU, MAX_ROWS, TIMEOUT_S

from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.reports import PassMade
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine_bridge import EngineBridge
from sd_worker.warm_up import warm_up


@pytest.mark.parametrize("model", ["sd1", "sd1-inpainting"])
async def test_each_model_makes_a_picture_also_one_that_is_for_inpainting_alone(
    source: ModelSource, model: str
) -> None:
    passes: list[PassMade] = []
    models = Models(source, CPU)
    bridge = EngineBridge(
        lambda on_progress, on_outcome, on_workload: EngineThread(
            models,
            RowCaps(CPU, fixed=MAX_ROWS),
            Listeners(on_progress, on_outcome, on_workload, on_pass=passes.append),
        )
    )
    bridge.start()
    async with asyncio.timeout(TIMEOUT_S):
        await warm_up(bridge, [model])
    assert {made.stage for made in passes} == {"denoise", "decode"}
    await bridge.stop(TIMEOUT_S)
