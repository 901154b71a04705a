"""Settings of a worker."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, DirectoryPath, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from sd_common.allowed_models import is_model_allowed
from sd_common.health import HealthHost, HealthPort
from sd_common.model_names import canonical_model_name
from sd_common.parameters import ModelName
from sd_common.settings import BaseUrl, Flag, Names, parse_names
from sd_common.streams import DEFAULT_ACK_WAIT_S
from sd_common.task_limits import SafetySettings, TaskSettings


def _name_of_this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class WorkerSettings(TaskSettings, SafetySettings):
    """What a worker reads besides NATS_*, MINIO_*, LOG_* and OTEL_*."""

    base_url: BaseUrl = Field(
        default="http://localhost:8000",
        description="Where clients reach the gateway, as in the gateway's own settings; blob URLs begin with it.",
    )
    model_dir: DirectoryPath = Field(
        default=Path("models"),
        validate_default=False,  # models of the hub need none
        description="Directory of models in the diffusers format, named by the path below it.",
    )
    huggingface_token: SecretStr | None = Field(
        default=None, description="Token for gated models on the Hugging Face hub."
    )
    device: str = Field(default="auto", description="`cuda`, `cuda:1`, `mps`, `cpu`, or `auto`, the best there is.")
    dtype: str = Field(
        default="auto", description="`float16`, `bfloat16`, `float32`, or `auto`: float16 on cuda, else float32."
    )
    cpu_cores: int = Field(
        default=0,
        ge=0,
        description="Cores that pictures are computed on without a GPU; 0: all, or OMP_NUM_THREADS. "
        "Workers that share a machine need a share of them each.",
    )
    model_memory_budget: int | None = Field(
        default=None,
        ge=1,
        description="Bytes of models kept in memory. Default: 3/4 of the free GPU memory, or half of the RAM.",
    )
    channels_last: Flag = Field(
        default=False, description="Keep UNet and VAE in the channels_last format: faster on some GPUs, slower on CPUs."
    )
    attention_backend: Literal["auto", "flash", "efficient", "cudnn", "math"] = Field(
        default="auto",
        description="Which of torch's attention kernels: `flash`, `efficient`, `cudnn`, `math` or `auto`.",
    )
    torch_compile: Flag = Field(
        default=False,
        description="Compile the denoising networks: minutes for each size of pictures and power of two of rows, those "
        "of the first size at once, so name the models in `PRELOAD_MODELS`.",
    )
    vae_tiling: Flag = Field(
        default=False, description="Decode large pictures in tiles: less memory, and seams may show."
    )
    models: Annotated[tuple[ModelName, ...], NoDecode, BeforeValidator(parse_names)] = Field(
        default=(),
        description="Models whose jobs this worker takes, and no others; separated by commas. Empty: those of all.",
    )
    preload_models: Names = Field(
        default=(),
        description="Models that are loaded, and have made a picture, before the worker is ready; separated by commas.",
    )
    max_rows: int | None = Field(
        default=None,
        ge=1,
        description="Rows of a forward pass at most; guidance takes two a picture. "
        "Default: measured, for each model and size of picture.",
    )
    deterministic: Flag = Field(
        default=False,
        description="Make every picture the same bit for bit whichever others are made with it, which costs time.",
    )
    model_swap_after_s: float = Field(
        default=30.0,
        ge=0,
        description="Seconds that a job of a model that no worker holds may wait, before a worker that has other "
        "models in memory loads it in preference to their jobs; and the least turn of a loaded model, "
        "before the next is.",
    )
    max_attempts: int = Field(
        default=5, ge=1, description="How often a task is started, should its workers be lost, before it is aborted."
    )
    job_ack_wait_s: float = Field(
        default=DEFAULT_ACK_WAIT_S,
        ge=2,
        description="Seconds after which the job of a worker that is silent goes to another; the same for all workers.",
    )
    drain_timeout_s: float = Field(
        default=300.0, ge=0, description="Seconds that running tasks have to end once the worker is told to stop."
    )
    health_host: HealthHost = "127.0.0.1"
    health_port: HealthPort = 8082
    worker_name: str = Field(
        default_factory=_name_of_this_process,
        max_length=200,
        description="Named in events and logs. Default: host name, process id and 4 random digits.",
    )

    @model_validator(mode="after")
    def check_that_models_are_allowed(self) -> Self:
        for name in self.models:
            if not is_model_allowed(name, self.allowed_models):
                raise ValueError(f"MODELS names '{name}', which ALLOWED_MODELS does not allow")
        return self

    @model_validator(mode="after")
    def check_that_models_to_preload_are_served(self) -> Self:
        for name in self.preload_models:
            if self.models and canonical_model_name(name) not in self.models:
                raise ValueError(f"PRELOAD_MODELS names '{name}', which is not among MODELS: no job would use it")
        return self
