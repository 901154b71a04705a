"""What the engine tells of itself: what it has to do, the passes that it made, and its models.

Like `tasks`, it costs no import of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sd_common.parameters import DefaultParameters, TaskKind
from sd_worker.engine.tasks import Stage

#: Models that an engine downloads side by side: more would only share the line, and the disk.
MOST_FETCHES = 4


@dataclass(frozen=True)
class Workload:
    """What the engine has to do.

    `passes`: full forward passes that a step of everything takes, or would take if there were room. `passes_per_task`:
    what one more task adds to it, as far as the last one tells.
    """

    passes: float = 0.0
    passes_per_task: float = 1.0
    #: The model that is being loaded waits until no sample runs on those that must go for it.
    waits_for_memory: bool = False
    #: Tasks that have begun, and those that wait for their model or for room.
    num_samples: int = 0
    num_waiting: int = 0
    #: Tasks that it has ever taken: who has submitted more knows what is not counted here yet.
    num_taken: int = 0


@dataclass(frozen=True)
class PassMade:
    """A forward pass, for the operator's figures.

    `num_rows` of samples, padding not counted, of `max_rows` that it could have had. `seconds` until the network had
    returned: on a GPU, which works behind, until its queue had taken the pass. That is short, so the sum over
    many passes is what they took.
    """

    stage: Stage
    num_rows: int
    max_rows: int
    seconds: float


@dataclass(frozen=True)
class KnownModel:
    """A model at hand, which tasks may name without a download: it is resident, or below MODEL_DIR.

    The size that a model was trained at is among its defaults once it is resident; before, only what its file says.
    """

    name: str
    kinds: tuple[TaskKind, ...]
    default_parameters: DefaultParameters
    is_resident: bool
    #: Whether a sample shares no forward pass of its network (see `sharing`).
    runs_alone: bool = False


@dataclass(frozen=True)
class LoadProgress:
    """How far a model is."""

    stage: Literal["downloading", "loading"]
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True)
class ModelLoad:
    """A model was read from the disk or the hub and moved to the device, or could not be."""

    name: str
    has_come: bool
    seconds: float


@dataclass(frozen=True)
class ModelDropped:
    """A model is kept no longer: for another one, to free memory, or after an error of ours."""

    name: str


ModelChange = ModelLoad | ModelDropped


@dataclass(frozen=True)
class MemoryUse:
    """What models take up, and how full the GPU is (None without one), in bytes. Others may use the GPU, too."""

    num_models: int
    models_bytes: int
    gpu_used_bytes: int | None = None
    gpu_total_bytes: int | None = None


@dataclass(frozen=True)
class ModelsHere:
    """Names of models in the memory of this worker (the most recently used last), of those that it is bringing to its
    disk, and of others below MODEL_DIR, as far as is known."""

    resident: Sequence[str]
    fetching: Sequence[str] = ()
    below_model_dir: Sequence[str] = ()


class ModelsView(Protocol):
    """What any thread may ask of an engine's models (`models.loads.Models`). All answer at once, but for `known`, which
    reads files."""

    def resident(self) -> Sequence[str]: ...
    def fetching(self) -> Sequence[str]: ...
    def known(self) -> Sequence[KnownModel]: ...
    def memory(self) -> MemoryUse: ...
