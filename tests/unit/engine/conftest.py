"""Tiny models, made once per session, and engines over them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from unit.engine.recorder import CPU, MAX_ROWS, EngineUnderTest, Recorder, TickedEngine

from sd_worker.engine.devices import Device
from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loaded_model import ModelLoader
from sd_worker.engine.models.loads import Models
from sd_worker.engine.models.model_loading import ModelSource
from sd_worker.engine.row_caps import RowCaps
from support import tiny_pipelines

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODEL_DIR with one tiny model of each family."""
    root = tmp_path_factory.mktemp("models")
    tiny_pipelines.save_sd1(root / "sd1")
    tiny_pipelines.save_sd1(root / "flags-all", safety_checker="flags all")
    tiny_pipelines.save_sd1(root / "flags-none", safety_checker="flags none")
    tiny_pipelines.save_sd1_inpainting(root / "sd1-inpainting")
    tiny_pipelines.save_sd2(root / "owner" / "sd2")
    tiny_pipelines.save_sdxl(root / "sdxl")
    tiny_pipelines.save_sd3(root / "sd3")
    tiny_pipelines.save_flux(root / "flux")
    tiny_pipelines.save_sd1_controlnet(root / "controlnet")
    shutil.copytree(REPOSITORY / "models" / "shapes", root / "shapes")
    return root


@pytest.fixture(scope="session")
def source(model_dir: Path) -> ModelSource:
    return ModelSource(model_dir, dtype=torch.float32)


@pytest.fixture
def create_engine(source: ModelSource) -> Iterator[Callable[..., EngineUnderTest]]:
    """Starts an engine (over another loader, if given one), which is stopped when the test ends."""
    created: list[EngineUnderTest] = []

    def create(
        loader: ModelLoader = source,
        device: Device = CPU,
        budget_bytes: int | None = None,
        row_caps: RowCaps | None = None,
    ) -> EngineUnderTest:
        recorder = Recorder()
        models = Models(loader, device, budget_bytes)
        listeners = Listeners(
            recorder.on_progress,
            recorder.on_outcome,
            on_preview=recorder.on_preview,
            on_pass=recorder.passes.append,
        )
        engine = EngineThread(models, row_caps or RowCaps(device, fixed=MAX_ROWS), listeners)
        created.append(EngineUnderTest(engine, recorder, models))
        engine.start()
        return created[-1]

    yield create
    for under_test in created:
        assert under_test.engine.stop(timeout_s=20)


@pytest.fixture
def engine(create_engine: Callable[..., EngineUnderTest]) -> EngineUnderTest:
    return create_engine()


@pytest.fixture
def ticked(source: ModelSource) -> Iterator[TickedEngine]:
    """With the model "sd1" in memory."""
    engine = TickedEngine(source, "sd1")
    yield engine
    engine.stop()
