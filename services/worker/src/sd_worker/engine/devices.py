"""The device that pictures are made on: its choice, its number format and its memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sd_worker.engine.errors import DeviceUnavailable

#: The share of a device's memory that models may fill. The rest is for activations: decoding one SDXL picture takes
#: gigabytes.
_GPU_SHARE_FOR_MODELS = 0.75
_RAM_SHARE_FOR_MODELS = 0.5

#: The memory limit of a container, cgroup v2 and v1. The machine's RAM says nothing there.
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

#: In messages of CUDA, of torch on a CPU, and of cuBLAS and cuDNN, which take memory for themselves.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "ALLOCATION_FAILED")

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Device:
    """Where the networks run, and in which number format."""

    torch_device: torch.device
    dtype: torch.dtype


def choose_device(name: str = "auto", dtype: str = "auto") -> Device:
    """The device called `name` ("auto", "cpu", "mps", "cuda", "cuda:1"), with a `dtype` ("auto", "float16", …).

    Raises `DeviceUnavailable` where this machine lacks the device, or a name is unknown.
    """
    torch_device = _best_device() if name == "auto" else _named_device(name)
    if dtype == "auto":
        return Device(torch_device, _default_dtype(torch_device))
    if dtype not in _DTYPES:
        raise DeviceUnavailable(f"Number format '{dtype}' is unknown: take auto, {', '.join(_DTYPES)}")
    return Device(torch_device, _DTYPES[dtype])


def default_budget_bytes(device: Device) -> int:
    """How many bytes of models may be resident on `device`: a share of what is free now, or of this process' RAM."""
    if device.torch_device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device.torch_device)
        return int(free_bytes * _GPU_SHARE_FOR_MODELS)
    return int(_ram_bytes() * _RAM_SHARE_FOR_MODELS)


def free_unused_memory(device: Device) -> None:
    """Give back what torch's allocator keeps for later on `device`."""
    if device.torch_device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.torch_device.type == "mps":
        torch.mps.empty_cache()


def check_device(device: Device) -> None:
    """Raises `DeviceUnavailable` where `device` computes nothing any more: after some errors CUDA fails for good."""
    try:
        torch.ones(1, device=device.torch_device).sum().item()
    except Exception as error:
        raise DeviceUnavailable(f"Device '{device.torch_device}' has failed: restart the worker") from error


def synchronize(device: Device) -> None:
    """Wait until `device` has done what it was given: only then does the clock tell how long it took."""
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize(device.torch_device)
    elif device.torch_device.type == "mps":
        torch.mps.synchronize()


def gpu_memory_bytes(device: Device) -> tuple[int, int] | None:
    """How much of the GPU's memory is used, by whomever, and how much it has; None without a GPU, or of one that has
    failed."""
    if device.torch_device.type != "cuda":
        return None
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device.torch_device)
    except RuntimeError:
        return None
    return total_bytes - free_bytes, total_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out. torch has a class for it on CUDA alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceUnavailable(f"Device '{name}' is unknown: take auto, cpu, mps, cuda or cuda:1") from None
    if device.type == "cpu":
        return device
    if device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count():
        return device
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    raise DeviceUnavailable(f"This machine has no device '{name}', or this torch cannot use it: take auto or cpu")


def _default_dtype(device: torch.device) -> torch.dtype:
    """float16 on CUDA: the weights of SD 1.x, 2.x and SDXL are published in it, and it keeps 3 bits more than bfloat16,
    which moved pictures by up to 19 grey levels. What overflows in it (SDXL's VAE) diffusers computes in float32.
    float32 elsewhere: CPUs have no fast float16, and MPS gives black pictures with it on some of its versions.
    """
    return torch.float16 if device.type == "cuda" else torch.float32


def _ram_bytes() -> int:
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return min([machine_bytes, *(int(limit) for limit in limits if limit.isdigit())])
