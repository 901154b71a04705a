"""The models of tasks that name none."""

from __future__ import annotations

import structlog

from sd_common.allowed_models import is_model_allowed
from sd_common.parameters import DEFAULT_INPAINT_MODEL, DEFAULT_MODEL, TaskKind
from sd_gateway.settings import GatewaySettings

log = structlog.get_logger(__name__)

_USUAL: dict[TaskKind, str] = {
    "txt2img": DEFAULT_MODEL,
    "img2img": DEFAULT_MODEL,
    "inpaint": DEFAULT_INPAINT_MODEL,
}


def default_models(settings: GatewaySettings) -> dict[TaskKind, str]:
    """By kind. A kind is left out where `ALLOWED_MODELS` does not allow its usual model: such tasks are refused."""
    by_kind = {kind: settings.default_model or usual for kind, usual in _USUAL.items()}
    return {kind: model for kind, model in by_kind.items() if is_model_allowed(model, settings.allowed_models)}


def warn_of_kinds_without_default_model(settings: GatewaySettings) -> None:
    """Log them, if there are any. It is no error: clients may be meant to name a model each time."""
    if kinds := [kind for kind in _USUAL if kind not in default_models(settings)]:
        log.warning("no_default_model", kinds=kinds, do="set DEFAULT_MODEL to one that ALLOWED_MODELS allows")
