"""What the arguments of two calls must be alike in, to be merged into one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, MutableMapping

import torch
from torch.utils.weak import WeakTensorKeyDictionary

#: Position ids of transformers, without a dimension for rows: one for all that share a pass.
WITHOUT_ROWS = frozenset({"img_ids", "txt_ids"})

#: Of those: they are the same tensor at each step of a sample.
_known_contents: MutableMapping[torch.Tensor, Hashable] = WeakTensorKeyDictionary()


def shape_of_keyword(name: str, value: object) -> Hashable:
    """As `shape_of`; of what has no rows, all that it says."""
    if name not in WITHOUT_ROWS or not isinstance(value, torch.Tensor):
        return shape_of(value)
    content = _known_contents.get(value)
    if content is None:
        content = _known_contents[value] = _content_of(value)
    return content


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
