"""The engine's thread alone computes on several cores. Tests have OMP_NUM_THREADS=1 but for what is set here."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from unit.engine.recorder import TIMEOUT_S, CreateEngine, WrappedLoader, network_of, txt2img

from sd_worker.engine.cores import compute_on
from sd_worker.engine.models.loaded_model import LoadedModel, OnLoadProgress, ReadModel
from sd_worker.engine.models.model_loading import ModelSource

NUM_CORES = 3


@pytest.fixture
def several_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(NUM_CORES)
    yield
    torch.set_num_threads(before)


class CountingLoader(WrappedLoader):
    """Notes on how many cores the thread computes that reads models."""

    num_cores = 0

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        read = super().fetch(name, on_progress)

        def counting(on_progress: OnLoadProgress) -> LoadedModel:
            self.num_cores = torch.get_num_threads()
            model = read(on_progress)
            torch.set_num_threads(NUM_CORES)  # what threads begin with that follow
            return model

        return counting


@pytest.mark.usefixtures("several_cores")
def test_helpers_and_the_loader_compute_on_one_core(create_engine: CreateEngine, source: ModelSource) -> None:
    loader = CountingLoader(source)
    engine = create_engine(loader)
    engine.finish(txt2img(model="flags-none"))
    num_cores: dict[str, int] = {}
    for part in ("unet", "safety_checker"):
        network = network_of(engine.models, "flags-none", part)
        network.register_forward_pre_hook(lambda *_, part=part: num_cores.update({part: torch.get_num_threads()}))

    engine.finish(txt2img(model="flags-none"))

    assert num_cores == {"unet": NUM_CORES, "safety_checker": 1}
    assert loader.num_cores == 1


@pytest.mark.usefixtures("several_cores")
def test_what_another_thread_asks_for_changes_nothing() -> None:
    begun, asked, found = threading.Event(), threading.Event(), []

    def compute() -> None:
        compute_on(2)
        begun.set()
        assert asked.wait(TIMEOUT_S)
        torch.ones(100_000).sum()
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    assert begun.wait(TIMEOUT_S)
    torch.set_num_threads(1)
    asked.set()
    thread.join()

    assert found == [2]
