"""Runs a service whose device fails for good at the first pass of a UNet: `python broken_device.py PYTHON -m MODULE`.

As the `runner` of a `support.stack.Service` it is the service's process itself.
"""

from __future__ import annotations

import runpy
import sys

from diffusers import UNet2DConditionModel
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook

from sd_worker.engine.errors import DeviceUnavailable
from sd_worker.engine.models import resident_models


def _fail_in_a_pass(module: Module, _: object) -> None:
    if isinstance(module, UNet2DConditionModel):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _fail(_: object) -> None:
    raise DeviceUnavailable("Device 'cuda' has failed: restart the worker")


def break_device() -> None:
    """Let the device of this process fail."""
    register_module_forward_pre_hook(_fail_in_a_pass)
    setattr(resident_models, "check_device", _fail)  # noqa: B010 - mypy would have it declared there


if __name__ == "__main__":
    break_device()
    sys.argv = sys.argv[sys.argv.index("-m") + 1 :]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
