"""One picture in flight: a task's pipeline at its rendezvous, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from sd_common.parameters import AnyParameters
from sd_worker.engine.models.loaded_model import LoadedModel
from sd_worker.engine.pipelines import GeneratedPicture, SchedulerStep, generate
from sd_worker.engine.rendezvous import Rendezvous
from sd_worker.engine.rooms import Room
from sd_worker.engine.tasks import Progress, Timings
from sd_worker.engine.waiting_tasks import Waiting

#: Rows of each pass of a deterministic task.
_NUM_FIXED_ROWS = 8
#: Called when a sample has come a step further, with its latents, where its pipeline shows them.
OnStep = Callable[["Sample", torch.Tensor | None], None]


class Sample:
    """A task that has begun. Its `rendezvous` runs it until its next call of something shared."""

    def __init__(self, waiting: Waiting, model: LoadedModel, room: Room, on_step: OnStep) -> None:
        """Of a task that is filled in."""
        self.waiting = waiting
        self.task = waiting.task
        self.room = room
        self._model: LoadedModel | None = model
        self.is_cancelled = False
        self._on_step = on_step
        self._told_step = 0
        self._started_at = time.perf_counter()
        self._denoising_at: float | None = None
        self._decoding_at: float | None = None
        self.rendezvous: Rendezvous[GeneratedPicture] = Rendezvous(self._generate)

    def begin_denoising(self) -> None:
        """It waits for its network; that it did so before is let pass."""
        if self._denoising_at is None:
            self._denoising_at = time.perf_counter()

    @property
    def is_denoised(self) -> bool:
        """Whether it has but its pixels to come."""
        return self._decoding_at is not None

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self.task.task_id, "denoising", self._told_step, self.task.planned_steps)

    def parameters_used(self) -> AnyParameters:
        return self.task.parameters.model_copy(update={"seed": self.task.seed})

    def timings(self, generated_at: float, png_s: float) -> Timings:
        """The stages of a sample that had its pixels at `generated_at`."""
        denoising_at = self._started_at if self._denoising_at is None else self._denoising_at
        decoding_at = generated_at if self._decoding_at is None else self._decoding_at
        return Timings(
            loaded_at=self.waiting.loaded_at,
            loading_s=self.waiting.loading_s,
            began_at=self._started_at,
            encoding_s=denoising_at - self._started_at,
            denoising_s=decoding_at - denoising_at,
            decoding_s=generated_at - decoding_at,
            png_s=png_s,
        )

    def take_model(self) -> LoadedModel:
        """The model, which an ended sample must not keep in memory while its picture is encoded."""
        assert self._model is not None
        model, self._model = self._model, None
        return model

    def _generate(self) -> GeneratedPicture:
        assert self._model is not None
        num_fixed_rows = _NUM_FIXED_ROWS if self.task.parameters.deterministic else None
        with self._model.tiled_decoding() if self.waiting.decodes_in_tiles else nullcontext():
            return generate(self._model, self.task, self._at_scheduler_step, num_fixed_rows)

    def _at_scheduler_step(self, done: SchedulerStep) -> None:
        step = done.num_done * self.task.planned_steps // done.num_planned
        if step > self._told_step:
            self._told_step = step
            self._on_step(self, done.latents)
        if done.num_done >= done.num_planned:
            # Not when its decoder is called: some pipelines do that unseen (`sharing`).
            self._decoding_at = time.perf_counter()
