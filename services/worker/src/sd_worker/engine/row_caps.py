"""How many rows a forward pass should have.

The knee of the batch curve (`batch_curve`) depends on the device, the network and the size of the picture, so it is
measured: at the first call of each, with copies of that call. Of a compiled network it is measured at the first size
alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import torch

from sd_worker.engine.batch_curve import MOST_ROWS, knee_of
from sd_worker.engine.batches import CostClass, NetworkCall, run_copies
from sd_worker.engine.devices import Device, free_unused_memory, is_out_of_memory, synchronize
from sd_worker.engine.models.tuning import raise_recompile_limit

_log = logging.getLogger(__name__)


class RowCaps:
    """The cap of each network for pictures of about the same size, measured once.

    `fixed`: this for all, and nothing is measured.
    `in_buckets`: passes are padded to a power of two, or to the cap where that is less, since a compiled network is
    compiled for each number of rows. At the first call of each network it is for all these; for other sizes as their
    passes come, with a cap that is computed from the first one's.
    """

    def __init__(self, device: Device, fixed: int | None = None, *, in_buckets: bool = False) -> None:
        self._device = device
        self._fixed = fixed
        self._in_buckets = in_buckets
        # Weak: a model that is dropped takes its own with it.
        self._caps: WeakKeyDictionary[torch.nn.Module, dict[CostClass, int]] = WeakKeyDictionary()

    def of(self, call: NetworkCall) -> int:
        """The rows that a forward pass of calls like `call` should have at most. Measures at the first such call."""
        if self._in_buckets:
            raise_recompile_limit()
        if call.owner is not None:
            return call.num_rows
        if call.num_fixed_rows is not None:
            return call.num_fixed_rows
        caps = self._caps.setdefault(call.network, {})
        if call.cost_class not in caps:
            caps[call.cost_class] = self._found(call, caps)
        return caps[call.cost_class]

    def padded(self, calls: Sequence[NetworkCall]) -> int | None:
        """The rows that a pass of these calls is padded to; None: as many as they have."""
        if self._has_buckets(calls[0]):
            return _bucket(sum(call.num_rows for call in calls), self.of(calls[0]))
        return calls[0].num_fixed_rows

    def _has_buckets(self, call: NetworkCall) -> bool:
        return self._in_buckets and call.stage == "denoise" and call.owner is None and call.num_fixed_rows is None

    def lower(self, call: NetworkCall, num_rows: int) -> None:
        """Memory ran out with more than `num_rows`."""
        if call.num_fixed_rows is not None:
            return
        self._caps.setdefault(call.network, {})[call.cost_class] = num_rows
        _log.warning("row cap lowered: out of memory", extra={"stage": call.stage, "num_rows": num_rows})

    def _found(self, call: NetworkCall, others: Mapping[CostClass, int]) -> int:
        """`others`: the caps that the network has for other sizes."""
        has_buckets = self._has_buckets(call)
        if has_buckets and others:
            return self._fixed or _like(others, call)
        cap = self._fixed or self._measured(call)
        return _compiled(call, cap) if has_buckets else cap

    def _measured(self, call: NetworkCall) -> int:
        def make_a_pass(num_rows: int) -> None:
            run_copies(call, num_rows)
            synchronize(self._device)

        started_at = time.perf_counter()
        num_rows = knee_of(make_a_pass, call.num_rows)
        free_unused_memory(self._device)  # of passes with more rows than there will be
        seconds = round(time.perf_counter() - started_at, 4)
        _log.info("row cap measured", extra={"stage": call.stage, "num_rows": num_rows, "seconds": seconds})
        return num_rows


def _like(others: Mapping[CostClass, int], call: NetworkCall) -> int:
    """A power of two of rows, together about as large as those of another size. To measure them would be to compile the
    network for each number of them, while all wait."""
    other, cap = next(iter(others.items()))
    num_rows = min(MOST_ROWS, cap * 2 ** ((other.half_octave - call.cost_class.half_octave) / 2))
    return max(call.num_rows, 1 << max(0, math.floor(math.log2(num_rows))))


def _compiled(call: NetworkCall, cap: int) -> int:
    """Have the network compiled for all that passes like `call` are padded to. Returns the cap, lower where memory ran
    out before."""
    compiled = 1
    for num_rows in sorted({_bucket(rows, cap) for rows in range(1, max(cap, call.num_rows) + 1)}):
        try:
            run_copies(call, num_rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return compiled
        compiled = num_rows
    return cap


def _bucket(num_rows: int, cap: int) -> int:
    """What so many rows are padded to. A single call may have more than the cap."""
    return max(num_rows, min(cap, 1 << (num_rows - 1).bit_length()))
