"""Loads models before the worker is ready, and makes a picture with each: what is measured or compiled at the first
pass is so done before a task waits for it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from PIL import Image

from sd_common.parameters import InpaintParameters, Txt2ImgParameters
from sd_worker.engine.tasks import EngineTask, Failed
from sd_worker.engine_bridge import EngineBridge

#: Of models that do not tell what they were trained at.
_SIZE_PX = 512

log = structlog.get_logger(__name__)


async def warm_up(engine: EngineBridge, models: Sequence[str]) -> None:
    """Return when each model has made a picture of its own size, or has failed to. A network that is compiled is so for
    every count of rows that its passes are padded to."""
    for number, model in enumerate(models):
        # Model defaults count for the rest. With guidance, as nearly all tasks have it.
        parameters = Txt2ImgParameters(prompt="", model=model, steps=1, guidance=2.0, scheduler="euler")
        outcome = await engine.run(EngineTask(f"warm-up-{number}", parameters, seed=0), lambda _: None)
        if isinstance(outcome, Failed) and outcome.code == "invalid_input":
            outcome = await engine.run(await _inpainting(engine, f"warm-up-{number}", model), lambda _: None)
        if isinstance(outcome, Failed):
            log.error("warm_up_failed", model=model, reason=outcome.reason)


async def _inpainting(engine: EngineBridge, task_id: str, model: str) -> EngineTask:
    """A task for a model, in memory by now, that makes no pictures from nothing: those made for inpainting."""
    size = next(
        (
            (known.default_parameters.width or _SIZE_PX, known.default_parameters.height or _SIZE_PX)
            for known in await engine.known_models()
            if known.name == model
        ),
        (_SIZE_PX, _SIZE_PX),
    )
    parameters = InpaintParameters(
        prompt="",
        model=model,
        steps=1,
        guidance=2.0,
        scheduler="euler",
        initial_image="warm-up",
        mask="warm-up",
    )
    return EngineTask(task_id, parameters, 0, Image.new("RGB", size), Image.new("L", size, 255))
