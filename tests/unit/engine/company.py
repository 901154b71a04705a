"""Tasks of every sort in flight together, and the pictures that each gives alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from unit.engine.recorder import KINDS, PROMPT, TickedEngine, picture

from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.tasks import EngineTask, Finished, Outcome

Pixels = npt.NDArray[np.int16]

#: Another than the tasks of `variety` have.
MARKED_PROMPT = "zebra"


def variety(
    model: str, schedulers: Sequence[str], kinds: Iterable[str] = KINDS, *, seed: int = 0, **parameters: object
) -> list[EngineTask]:
    """A task of each kind with each scheduler, otherwise of mixed parameters, in a mixed order. `seed` chooses."""
    random = Random(f"{model} {seed}")
    tasks = []
    for scheduler, kind in product(schedulers, kinds):
        chosen: dict[str, object] = {
            "prompt": random.choice([PROMPT, "the green square", "a picture of the red background"]),
            "negative_prompt": random.choice([None, "blue"]),
            "steps": random.choice([3, 5, 8]),
            "guidance": random.choice([1.0, 3.0, 7.5]),
        }
        if kind == "txt2img":
            chosen["width"] = random.choice([64, 64, 96])
        if kind == "img2img":
            chosen["strength"] = random.choice([0.5, 0.8, 1.0])
        task_id = f"{model} {kind} {scheduler} {seed}"
        own = {"model": model, "scheduler": scheduler, **chosen, **parameters}
        tasks.append(KINDS[kind](task_id, seed=random.getrandbits(64), **own))
    random.shuffle(tasks)
    return tasks


class Alone:
    """The pictures of tasks that had the engine for themselves, each made once."""

    def __init__(self, engine: TickedEngine) -> None:
        self._engine = engine
        self._pixels: dict[str, Pixels] = {}

    def pixels(self, task: EngineTask) -> Pixels:
        key = f"{task.seed} {task.parameters.model_dump_json()}"
        if key not in self._pixels:
            self._pixels[key] = pixels_of(self._engine.finish(task))
        return self._pixels[key]

    def differences(self, tasks: Sequence[EngineTask], outcomes: Mapping[str, Outcome]) -> dict[str, Pixels]:
        """Of each picture in `outcomes` from that of the task alone, in grey levels."""
        differences = {}
        for task in tasks:
            outcome = outcomes[task.task_id]
            assert isinstance(outcome, Finished), outcome
            alone = self.pixels(task)
            # A flat picture would equal many others.
            assert alone.std() > 5
            differences[task.task_id] = np.abs(pixels_of(outcome) - alone)
        return differences

    def assert_within(self, num_levels: int, tasks: Sequence[EngineTask], outcomes: Mapping[str, Outcome]) -> None:
        worst = {task_id: int(values.max()) for task_id, values in self.differences(tasks, outcomes).items()}
        assert max(worst.values()) <= num_levels, {
            task_id: levels for task_id, levels in worst.items() if levels > num_levels
        }


def pixels_of(finished: Finished) -> Pixels:
    return np.asarray(picture(finished), dtype=np.int16)


class Failing:
    """While entered, a pass of the model's UNet that has a row of `MARKED_PROMPT` fails, from the third such on."""

    def __init__(self, model: LoadedModel) -> None:
        encode_prompt = getattr(model.pipeline, "encode_prompt")  # noqa: B009  # the protocol has only what the engine uses
        with torch.inference_mode():
            self._marked: torch.Tensor = encode_prompt(MARKED_PROMPT, torch.device("cpu"), 1, False)[0]
        unet = model.pipeline.components["unet"]
        assert isinstance(unet, torch.nn.Module)
        self._unet = unet
        self.num_passes = 0

    def __enter__(self) -> Failing:
        self._hook = self._unet.register_forward_pre_hook(self._look, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _look(self, module: torch.nn.Module, arguments: object, keywords: dict[str, torch.Tensor]) -> None:
        if (keywords["encoder_hidden_states"] == self._marked).flatten(1).all(dim=1).any():
            self.num_passes += 1
            if self.num_passes >= 3:
                raise RuntimeError("a marked prompt")
