"""Calls of one network made one: merge the arguments, call, split the result.

A batch is a view of the moment: it lives for one forward pass, the samples go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from sd_worker.engine.shapes import WITHOUT_ROWS, shape_of, shape_of_keyword
from sd_worker.engine.tasks import Stage


class CostClass(NamedTuple):
    """Calls of a network whose rows cost about the same: of latents within some 20 % of the same size. Two half-octaves
    more are twice the size."""

    stage: Stage
    half_octave: int


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """One sample's call of a shared network.

    The first tensor's first dimension is the rows (guidance makes two of a picture). `owner` is whom alone it may share
    with, None for all; `num_fixed_rows` is what the forward pass is padded to, whoever shares it.
    """

    stage: Stage
    network: torch.nn.Module
    arguments: tuple[object, ...]
    keywords: Mapping[str, object]
    owner: Hashable = None
    num_fixed_rows: int | None = None

    @cached_property
    def first_tensor(self) -> torch.Tensor:
        """The first that has rows."""
        for value in (*self.arguments, *self.keywords.values()):
            if isinstance(value, torch.Tensor) and value.ndim > 0:
                return value
        raise TypeError("a network was called without a tensor")

    @property
    def num_rows(self) -> int:
        return self.first_tensor.shape[0]

    @property
    def has_rows(self) -> bool:
        """Whether every tensor has the rows, or one for all. Some transformers take a list of pictures instead."""
        keywords = (value for name, value in self.keywords.items() if name not in WITHOUT_ROWS)
        tensors = (*_tensors_of(self.arguments), *_tensors_of(keywords))
        return all(tensor.ndim == 0 or tensor.shape[0] in (1, self.num_rows) for tensor in tensors)

    @cached_property
    def shape(self) -> Hashable:
        """What two calls of a network must have in common to fit into one pass."""
        keywords = tuple((name, shape_of_keyword(name, self.keywords[name])) for name in sorted(self.keywords))
        return (self.stage, tuple(map(shape_of, self.arguments)), keywords)

    @property
    def cost_class(self) -> CostClass:
        per_row = self.first_tensor.numel() // self.num_rows
        return CostClass(self.stage, round(2 * math.log2(per_row)))

    @cached_property
    def group(self) -> Hashable:
        """Calls of the same group may share a forward pass."""
        return (self.network, self.shape, self.owner, self.num_fixed_rows)

    def run(self) -> object:
        return self.run_with(self.arguments, self.keywords)

    def run_with(self, arguments: Sequence[object], keywords: Mapping[str, object]) -> object:
        """The same call with other arguments."""
        method = "__call__" if self.stage == "denoise" else "decode"
        function: Callable[..., object] = getattr(self.network, method)
        return function(*arguments, **keywords)


def run_together(calls: Sequence[NetworkCall], num_rows: int | None = None) -> list[object]:
    """One forward pass for `calls` of one group, padded to `num_rows` where it has fewer; the result of each.

    Without `num_rows` a call that is alone is made exactly as its pipeline made it. With it, all passes of as many rows
    look the same to the network, whoever is in them: a compiled one is compiled for that look.
    """
    rows = [call.num_rows for call in calls]
    if len(calls) == 1 and num_rows is None:
        return [calls[0].run()]
    num_padding = max(0, (num_rows or 0) - sum(rows))
    return _split(_run_merged(calls, num_padding), rows, num_padding)


def run_copies(call: NetworkCall, num_rows: int) -> None:
    """A forward pass of `num_rows` rows like those of `call`, for its time or for what is compiled at it."""
    _run_merged([call], num_rows - call.num_rows)


def _run_merged(calls: Sequence[NetworkCall], num_padding: int) -> object:
    first = calls[0]
    merge = _Merge([call.num_rows for call in calls], num_padding, first.first_tensor.device)
    arguments = [merge([call.arguments[index] for call in calls]) for index in range(len(first.arguments))]
    keywords = {
        name: value if name in WITHOUT_ROWS else merge([call.keywords[name] for call in calls])
        for name, value in first.keywords.items()
    }
    return first.run_with(arguments, keywords)


def _tensors_of(values: Iterable[object]) -> Iterator[torch.Tensor]:
    for value in values:
        match value:
            case torch.Tensor():
                yield value
            case Mapping():
                yield from _tensors_of(value.values())
            case list() | tuple():
                yield from _tensors_of(value)


@dataclass(frozen=True)
class _Merge:
    """Makes one argument of those of several calls, which have `rows`."""

    rows: Sequence[int]
    #: Of which the last row is repeated; where it is negative, rows are left out.
    num_padding: int
    #: Where scalars go, which some schedulers keep on the CPU: networks move only a single one themselves.
    device: torch.device

    def __call__(self, values: Sequence[object]) -> object:
        first = values[0]
        match first:
            case torch.Tensor():
                return self._tensors([value for value in values if isinstance(value, torch.Tensor)])
            case Mapping():
                mappings = [value for value in values if isinstance(value, Mapping)]
                return {name: self([mapping[name] for mapping in mappings]) for name in first}
            case list() | tuple():
                sequences = [value for value in values if isinstance(value, list | tuple)]
                return type(first)(self(parts) for parts in zip(*sequences, strict=True))
            case _:
                return first  # the same for all: it is part of the shape

    def _tensors(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if tensors[0].ndim == 0:
            # Without waiting, as it would for all that the GPU was given.
            tensors = [tensor.to(self.device, torch.float32, non_blocking=True) for tensor in tensors]
        parts = [_with_rows(tensor, num_rows) for tensor, num_rows in zip(tensors, self.rows, strict=True)]
        if self.num_padding > 0:
            parts.append(_with_rows(parts[-1][-1:], self.num_padding))
        merged = torch.cat(parts) if self.num_padding >= 0 else torch.cat(parts)[: self.num_padding]
        # One format: latents that come from the VAE are channels_last, and networks round differently in it.
        return merged.contiguous()


def _with_rows(tensor: torch.Tensor, num_rows: int) -> torch.Tensor:
    if tensor.ndim == 0:
        return tensor.expand(num_rows)
    return tensor if tensor.shape[0] == num_rows else tensor.expand(num_rows, *tensor.shape[1:])


def _split(value: object, rows: Sequence[int], num_padding: int) -> list[object]:
    match value:
        case torch.Tensor():
            return [*torch.split(value, [*rows, num_padding])[: len(rows)]]
        case list() | tuple():
            parts = [_split(part, rows, num_padding) for part in value]
            return [type(value)(part[index] for part in parts) for index in range(len(rows))]
        case _:
            raise TypeError(f"a network returned a {type(value).__name__}, which has no rows")
