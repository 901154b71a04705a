"""What the arguments of two calls must be alike in, to be merged into one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping

import torch

#: Position ids of transformers, without a dimension for rows: one for all that share a pass.
WITHOUT_ROWS = frozenset({"img_ids", "txt_ids"})


class KnownShapes:
    """The shapes of what one sample calls a network with: much of it is the same tensor at each step."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[torch.Tensor, Hashable]] = {}

    def of(self, name: str, value: object) -> Hashable:
        """What another call's argument `name` must be like, to be in one pass with `value`."""
        if not isinstance(value, torch.Tensor):  # a container may be another one inside
            return shape_of(value)
        known = self._known.get(name)
        if known is None or known[0] is not value:
            shape = _content_of(value) if name in WITHOUT_ROWS else shape_of(value)
            known = self._known[name] = (value, shape)
        return known[1]


def shape_of(value: object) -> Hashable:
    """Of an argument, without its rows."""
    match value:
        case torch.Tensor() if value.ndim == 0:
            # Timesteps: schedulers differ in their type, and networks cast them to float32 themselves.
            return "scalar"
        case torch.Tensor():
            return (value.shape[1:], value.dtype)
        case Mapping():
            return tuple((name, shape_of(value[name])) for name in sorted(value))
        case list() | tuple():
            return tuple(map(shape_of, value))
        case str() | int() | float() | None:
            return value
        case _:
            return id(value)


def _content_of(value: torch.Tensor) -> Hashable:
    """Of equal length are the positions in a wide picture and in a high one."""
    content = value.to("cpu", torch.float32).numpy().tobytes()
    return (value.shape, value.dtype, hashlib.blake2b(content).digest())
