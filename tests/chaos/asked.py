"""What clients of a chaos run ask for, and what they were told about it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sd_common.parameters import TaskKind
from support.pictures import data_url, png

#: How a client goes about a task: leaves it alone, reads its state until it has ended, deletes it; or sends a GET that
#: waits for the picture, and leaves before it comes.
Manner = Literal["forgets", "follows", "deletes", "waits", "leaves"]

_SHARES: dict[Manner, float] = {"forgets": 2, "follows": 5, "deletes": 1.5, "waits": 1, "leaves": 0.5}
_SIDES_PX = (64, 72, 96)
#: Most are over in a tick; some are under way for long enough to lose their worker.
_STEPS = (1, 2, 4, 8, 60)


@dataclass
class AskedTask:
    """One task that a client asked for."""

    number: int
    kind: TaskKind
    manner: Manner
    width: int
    height: int
    parameters: dict[str, Any]
    #: From here on what the service told; times are of the wall clock, as NATS has them. None: not told.
    task_id: str | None = None
    accepted_at_s: float | None = None
    #: When its DELETE was answered: the task has ended by then.
    deleted_at_s: float | None = None
    #: The picture that a waiting GET was answered with.
    blob_url: str | None = None

    @property
    def was_accepted(self) -> bool:
        return self.task_id is not None


def ask(number: int, rng: random.Random) -> AskedTask:
    """Draw a task. `number` is sent as the seed, by which its events are known even where its id was never told."""
    kind: TaskKind = rng.choice(get_args(TaskKind))
    manner = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    width, height = rng.choice(_SIDES_PX), rng.choice(_SIDES_PX)
    parameters: dict[str, Any] = {
        "params_type": kind,
        "prompt": "a red circle",
        "seed": number,
        "steps": rng.choice(_STEPS),
        "scheduler": "ddim",
        "safety_filter": False,
    }
    match kind:
        case "txt2img":
            parameters |= {"model": rng.choice(("shapes", "tiny")), "width": width, "height": height}
        case "img2img":
            parameters |= {"model": "tiny", "initial_image": data_url(png(width, height, "red")), "strength": 1.0}
        case "inpaint":
            parameters |= {
                "model": "tiny-inpainting",
                "initial_image": data_url(png(width, height, "green")),
                "mask": data_url(png(width, height, "white")),
            }
    return AskedTask(number, kind, manner, width, height, parameters)
