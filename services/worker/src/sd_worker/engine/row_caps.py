"""How many rows a forward pass should have: the knee of the batch curve.

More rows cost less each, up to a point: there the device is busy, and more rows only make everybody wait longer for the
step (an oversized batch raised the median latency by half and gave no throughput). Where it lies depends on the device,
the network and the size of the picture, so it is measured: at the first call of each, with copies of that call.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable, Sequence
from weakref import WeakKeyDictionary

import torch

from sd_worker.engine.batches import NetworkCall, run_copies
from sd_worker.engine.devices import Device, is_out_of_memory, synchronize
from sd_worker.engine.models.tuning import raise_recompile_limit

_log = logging.getLogger(__name__)

#: Rows are doubled for as long as a pass then makes this many times as many of them a second.
_WORTHWHILE_SPEEDUP = 1.07
_MOST_ROWS = 64
#: Seconds that one measured pass may take, as far as the one before tells: a slow device is not worth the wait.
_LONGEST_PASS_S = 1.5
#: Passes of each number of rows that are timed.
_NUM_TIMED = 2


class RowCaps:
    """The cap of each network for pictures of about the same size, measured once.

    `fixed`: this for all, and nothing is measured.
    `in_buckets`: passes are padded to a power of two, or to the cap where that is less, since a compiled network is
    compiled for each number of rows. At the first call of each network it is for all these; other sizes follow as their
    passes come.
    """

    def __init__(self, device: Device, fixed: int | None = None, *, in_buckets: bool = False) -> None:
        self._device = device
        self._fixed = fixed
        self._in_buckets = in_buckets
        # Weak: a model that is dropped takes its own with it.
        self._caps: WeakKeyDictionary[torch.nn.Module, dict[Hashable, int]] = WeakKeyDictionary()

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
            cap = self._measured(call) if self._fixed is None else self._fixed
            if self._has_buckets(call) and not caps:
                cap = _compiled(call, cap)
            caps[call.cost_class] = cap
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

    def _measured(self, call: NetworkCall) -> int:
        num_rows = call.num_rows
        pass_s = self._fastest_pass_s(call, num_rows)
        while 2 * num_rows <= _MOST_ROWS and 2 * pass_s <= _LONGEST_PASS_S:
            worthwhile_s = 2 * pass_s / _WORTHWHILE_SPEEDUP
            try:
                doubled_s = self._fastest_pass_s(call, 2 * num_rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            if doubled_s > worthwhile_s:
                break
            num_rows, pass_s = 2 * num_rows, doubled_s
        _log.info("row cap measured", extra={"stage": call.stage, "num_rows": num_rows, "pass_s": round(pass_s, 4)})
        return num_rows

    def _fastest_pass_s(self, call: NetworkCall, num_rows: int) -> float:
        """Seconds of the fastest of some passes: another process may have had the cores. One that takes long is made
        once."""
        self._pass_s(call, num_rows)  # the first of a size allocates memory, and chooses kernels
        pass_s = math.inf
        for _ in range(_NUM_TIMED):
            pass_s = min(pass_s, self._pass_s(call, num_rows))
            if 2 * pass_s > _LONGEST_PASS_S:
                break
        return pass_s

    def _pass_s(self, call: NetworkCall, num_rows: int) -> float:
        started = time.perf_counter()
        run_copies(call, num_rows)
        synchronize(self._device)
        return time.perf_counter() - started


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
