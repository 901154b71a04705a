"""What workers tell each other, so that not each has to ask the server: what waits, and who holds which model (ADR 9).

Not stored; each message replaces the one before.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sd_common.lanes import Lane
from sd_common.messages import Message, Timestamp, Token
from sd_common.subjects import ModelLane


class LaneBacklog(BaseModel):
    """The jobs of one lane of a model's queue."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model_key: Token
    lane: Lane
    num_jobs: int = Field(ge=1, description="Jobs in the queue: waiting, running, or handed back.")
    num_waiting: int = Field(ge=0, description="Those that no worker was given yet.")
    oldest_wait_s: float = Field(
        ge=0, allow_inf_nan=False, description="For how long the oldest of these has waited; 0 where there is none."
    )

    @property
    def model_lane(self) -> ModelLane:
        return ModelLane(self.model_key, self.lane)


class Backlog(Message):
    """Every lane that has jobs."""

    worker: str = Field(description="The name of the worker that asked the server.")
    time: Timestamp = Field(description="When it asked, by the server's clock.")
    lanes: list[LaneBacklog]


class HeldModels(Message):
    """The models that one worker holds: none, when it takes no more jobs."""

    worker: str = Field(description="The worker's name.")
    model_keys: list[Token] = Field(description="Of the models that it has in memory, or is about to load.")
    has_just_come: bool = Field(
        default=False, description="Whether it has begun to listen just now: the others then name theirs."
    )
