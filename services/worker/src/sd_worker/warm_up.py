"""Loads models before the worker is ready, and makes a picture with each: what is measured or compiled at the first
pass is so done before a task waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sd_common.parameters import Txt2ImgParameters
from sd_worker.engine.tasks import EngineTask, Failed
from sd_worker.engine_bridge import EngineBridge

log = structlog.get_logger(__name__)


async def warm_up(engine: EngineBridge, models: Sequence[str]) -> None:
    """Return when each model has made a picture of its own size, or has failed to."""
    for number, model in enumerate(models):
        # Model defaults count for the rest. With guidance, as nearly all tasks have it.
        parameters = Txt2ImgParameters(prompt="", model=model, steps=1, guidance=2.0, scheduler="euler")
        outcome = await engine.run(EngineTask(f"warm-up-{number}", parameters, seed=0), lambda _: None)
        # Models made for inpainting alone are loaded all the same.
        if isinstance(outcome, Failed) and outcome.code != "invalid_input":
            log.error("warm_up_failed", model=model, reason=outcome.reason)
