"""What a worker announces: the models that it has at hand. Not stored; a worker that falls silent is forgotten."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sd_common.messages import Message
from sd_common.parameters import DefaultParameters, TaskKind

#: A worker announces itself at least this often; one that has been silent for three times as long is forgotten.
ANNOUNCEMENT_INTERVAL_S = 10.0
SILENCE_S = 3 * ANNOUNCEMENT_INTERVAL_S


class AnnouncedModel(BaseModel):
    """A model that the worker serves without a download."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    kinds: list[TaskKind] = Field(description="The kinds of tasks that it can do.")
    default_parameters: DefaultParameters = Field(
        description="Its own defaults, as far as they are known: the size that it was trained at, once it is resident."
    )
    is_resident: bool = Field(description="Whether it is in the worker's memory.")
    runs_alone: bool = Field(
        default=False, description="Whether its tasks share no forward passes there; known once it is resident."
    )


class WorkerAnnouncement(Message):
    """A worker, and the models that it has at hand."""

    worker: str = Field(description="The worker's name.")
    models: list[AnnouncedModel]
    is_leaving: bool = Field(default=False, description="Whether it takes no more jobs: forget it at once.")
