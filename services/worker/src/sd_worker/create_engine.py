"""The engine that the settings ask for. Imports torch: seconds that `__main__` need not wait for before it can complain
of wrong settings."""

from __future__ import annotations

import os

from sd_worker.engine_bridge import CreateEngine
from sd_worker.metrics import WorkerMetrics
from sd_worker.settings import WorkerSettings


def create_engine(settings: WorkerSettings, metrics: WorkerMetrics) -> CreateEngine:
    """What makes the engine, given its callbacks; it tells its figures to `metrics`. Blocks for seconds; raises
    `DeviceUnavailable`."""
    # Else three lines say at import that torchvision, which nothing here needs, is not installed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from sd_worker.engine.devices import choose_device
    from sd_worker.engine.engine_thread import EngineThread, Listeners
    from sd_worker.engine.models.loads import Models
    from sd_worker.engine.models.model_loading import ModelSource
    from sd_worker.engine.models.tuning import Tuning, choose_attention
    from sd_worker.engine.row_caps import RowCaps

    device = choose_device(settings.device, settings.dtype)
    choose_attention(settings.attention_backend)
    token = settings.huggingface_token.get_secret_value() if settings.huggingface_token else None
    source = ModelSource(
        settings.model_dir,
        dtype=device.dtype,
        token=token,
        require_safety_checker=settings.safety_filter == "required",
        tuning=Tuning(settings.channels_last, settings.torch_compile, settings.vae_tiling),
    )
    models = Models(source, device, settings.model_memory_budget, metrics.model_changed)
    row_caps = RowCaps(device, settings.max_rows, in_buckets=settings.torch_compile)
    return lambda on_progress, on_outcome, on_workload: EngineThread(
        models, row_caps, Listeners(on_progress, on_outcome, on_workload, on_pass=metrics.pass_made), settings.cpu_cores
    )
