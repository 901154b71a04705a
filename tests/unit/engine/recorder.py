"""What an engine under test tells, and how tests wait for it."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from sd_common.parameters import Img2ImgParameters, InpaintParameters, Txt2ImgParameters
from sd_worker.engine.devices import Device
from sd_worker.engine.engine import Engine
from sd_worker.engine.engine_thread import EngineThread, Listeners
from sd_worker.engine.models.loaded_model import LoadedModel, ModelLoader, OnLoadProgress, ReadModel
from sd_worker.engine.models.loads import Models
from sd_worker.engine.reports import KnownModel, PassMade
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.tasks import EngineTask, Finished, Outcome, Progress

CPU = Device(torch.device("cpu"), torch.float32)
#: Rows of a forward pass: what the tiny models are shared in, unless a test measures.
MAX_ROWS = 8
TIMEOUT_S = 20.0

PROMPT = "a red circle on the blue background"


class Recorder:
    """Takes an engine's callbacks."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.previews: list[tuple[str, torch.Tensor]] = []
        self.passes: list[PassMade] = []
        #: Runs in the engine thread at each progress.
        self.at_progress: Callable[[Progress], None] = lambda progress: None

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)
        self.at_progress(progress)

    def on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.put(outcome)

    def on_preview(self, task_id: str, latents: torch.Tensor) -> None:
        self.previews.append((task_id, latents))

    def next_outcome(self) -> Outcome:
        return self.outcomes.get(timeout=TIMEOUT_S)

    def steps_of(self, task_id: str) -> list[int]:
        return [p.step for p in self.progress if p.task_id == task_id and p.stage == "denoising"]


@dataclass
class EngineUnderTest:
    """A running engine and what it told."""

    engine: EngineThread
    recorder: Recorder
    models: Models

    def run(self, task: EngineTask) -> Outcome:
        self.engine.submit(task)
        return self.recorder.next_outcome()

    def finish(self, task: EngineTask) -> Finished:
        outcome = self.run(task)
        assert isinstance(outcome, Finished), outcome
        return outcome


def engine_telling(
    loader: ModelLoader, on_progress: Callable[[Progress], None], on_outcome: Callable[[Outcome], None]
) -> EngineThread:
    """One over no model yet, to be started."""
    return EngineThread(Models(loader, CPU), RowCaps(CPU, fixed=MAX_ROWS), Listeners(on_progress, on_outcome))


def load_now(models: Models, name: str) -> LoadedModel:
    """Load a model as the engine does, and wait for it."""
    changed = threading.Event()
    models.on_change(changed.set)
    while name not in (ended := models.poll([name])):
        assert changed.wait(TIMEOUT_S)
        changed.clear()
    assert ended[name] is None
    model = models.get(name)
    assert model is not None
    return model


#: The fixture `create_engine`.
CreateEngine = Callable[..., EngineUnderTest]


def network_of(models: Models, name: str, part: str) -> torch.nn.Module:
    """A network of a model that is resident."""
    model = models.get(name)
    assert model is not None
    network = model.pipeline.components[part]
    assert isinstance(network, torch.nn.Module)
    return network


class TickedEngine:
    """An engine without a thread of its own: it ticks when a test says so. `names` are resident from the start."""

    def __init__(
        self,
        loader: ModelLoader,
        *names: str,
        device: Device = CPU,
        budget_bytes: int | None = None,
        row_caps: RowCaps | None = None,
    ) -> None:
        self.recorder = Recorder()
        self.models = Models(loader, device, budget_bytes)
        for name in names:
            load_now(self.models, name)
        self.row_caps = row_caps or RowCaps(device, fixed=MAX_ROWS)
        self.outcomes: dict[str, Outcome] = {}
        self._changed = threading.Event()
        self.engine = Engine(
            self.models,
            self.row_caps,
            on_progress=self.recorder.on_progress,
            on_change=self._changed.set,
            on_preview=self.recorder.on_preview,
            on_pass=self.recorder.passes.append,
        )

    def tick(self) -> None:
        """Once there is something to do."""
        assert self.engine.has_work or self._changed.wait(TIMEOUT_S)
        self._changed.clear()
        for outcome in self.engine.tick():
            assert outcome.task_id not in self.outcomes
            self.outcomes[outcome.task_id] = outcome

    def run(
        self, tasks: Sequence[EngineTask], *, per_join: int = 2, cancel_at: Mapping[str, int] | None = None
    ) -> dict[str, Outcome]:
        """The outcomes of `tasks`, of which `per_join` join at every third tick. Those in `cancel_at` are cancelled
        after that step."""
        self.outcomes = {}
        cancel_at = cancel_at or {}
        num_joined = num_ticks = 0
        while len(self.outcomes) < len(tasks):
            if num_ticks % 3 == 0:
                for task in tasks[num_joined : num_joined + per_join]:
                    self.engine.submit(task)
                num_joined = min(len(tasks), num_joined + per_join)
            if num_joined == len(tasks) or self.engine.has_work:
                self.tick()
            num_ticks += 1
            for task_id, step in cancel_at.items():
                if task_id not in self.outcomes and step in self.recorder.steps_of(task_id):
                    self.engine.cancel(task_id)
        return self.outcomes

    def finish(self, task: EngineTask) -> Finished:
        outcome = self.run([task])[task.task_id]
        assert isinstance(outcome, Finished), outcome
        return outcome

    def stop(self) -> None:
        self.engine.stop()


class WrappedLoader:
    """Loads for real; what a test overrides is different."""

    def __init__(self, loader: ModelLoader) -> None:
        self._loader = loader

    def is_at_hand(self, name: str) -> bool:
        return self._loader.is_at_hand(name)

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        return self._loader.fetch(name, on_progress)

    def known(self) -> Sequence[KnownModel]:
        return self._loader.known()


class GatedLoader(WrappedLoader):
    """Loads for real, once a test lets it."""

    def __init__(self, loader: ModelLoader) -> None:
        super().__init__(loader)
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.left = threading.Event()

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        read = self._loader.fetch(name, on_progress)

        def read_and_leave(on_progress: OnLoadProgress) -> LoadedModel:
            try:
                return read(on_progress)
            finally:
                self.left.set()

        return read_and_leave


class RaisingLoader(WrappedLoader):
    """Raises the given errors, one a load, then loads for real."""

    def __init__(self, loader: ModelLoader, *errors: BaseException) -> None:
        super().__init__(loader)
        self._errors = list(errors)

    def fetch(self, name: str, on_progress: OnLoadProgress) -> ReadModel:
        if self._errors:
            raise self._errors.pop(0)
        return self._loader.fetch(name, on_progress)


def initial_image(width: int = 64, height: int = 64) -> Image.Image:
    """A picture with some structure."""
    return Image.radial_gradient("L").resize((width, height)).convert("RGB").rotate(30, fillcolor=(200, 60, 20))


def mask(width: int = 64, height: int = 64) -> Image.Image:
    """White in the middle."""
    image = Image.new("L", (width, height), 0)
    image.paste(255, (width // 4, height // 4, width // 4 * 3, height // 4 * 3))
    return image


def txt2img(task_id: str = "t", *, seed: int = 1, **parameters: object) -> EngineTask:
    """A small fast task on the tiny model "sd1"."""
    defaults: dict[str, object] = {"prompt": PROMPT, "model": "sd1", "width": 64, "height": 64, "steps": 3}
    return EngineTask(task_id, Txt2ImgParameters.model_validate({**defaults, **parameters}), seed)


def img2img(task_id: str = "t", *, seed: int = 1, image: Image.Image | None = None, **parameters: object) -> EngineTask:
    """A small fast task on the tiny model "sd1"."""
    defaults: dict[str, object] = {"prompt": PROMPT, "model": "sd1", "steps": 4, "initial_image": "blob"}
    checked = Img2ImgParameters.model_validate({**defaults, **parameters})
    return EngineTask(task_id, checked, seed, image or initial_image())


def inpaint(task_id: str = "t", *, seed: int = 1, image: Image.Image | None = None, **parameters: object) -> EngineTask:
    """A small fast task on the tiny model "sd1"."""
    defaults = {"prompt": PROMPT, "model": "sd1", "steps": 3, "initial_image": "blob", "mask": "blob"}
    checked = InpaintParameters.model_validate({**defaults, **parameters})
    return EngineTask(task_id, checked, seed, image or initial_image(), mask())


#: What makes a task of each kind.
KINDS: Mapping[str, Callable[..., EngineTask]] = {"txt2img": txt2img, "img2img": img2img, "inpaint": inpaint}


def picture(finished: Finished) -> Image.Image:
    """The pixels of a finished task."""
    return Image.open(io.BytesIO(finished.png))
