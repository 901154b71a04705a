"""A forward pass: for whom it is made, of how many rows, and what it tells. It fails for the guilty alone."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence

from sd_worker.engine.batches import NetworkCall, run_together
from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.errors import drop_tracebacks
from sd_worker.engine.groups import Groups
from sd_worker.engine.rendezvous import Returned
from sd_worker.engine.reports import PassMade
from sd_worker.engine.rooms import Rooms
from sd_worker.engine.row_caps import RowCaps
from sd_worker.engine.samples import Sample


class Passes:
    """Makes passes of parked calls. What rooms must know of rows is learned on the way."""

    def __init__(self, row_caps: RowCaps, rooms: Rooms, on_pass: Callable[[PassMade], None]) -> None:
        self._row_caps = row_caps
        self._rooms = rooms
        self._on_pass = on_pass

    def make(self, groups: Groups) -> list[tuple[Sample, Returned]]:
        """Make one for the group whose turn it is. Returns those that were in it, and what became of their calls."""
        max_rows = self._max_rows(*groups.first())
        parked = groups.take(max_rows)
        started_at = time.perf_counter()
        returned = _run_tolerantly([call for _, call in parked], self._row_caps)
        seconds = time.perf_counter() - started_at
        num_rows = sum(call.num_rows for _, call in parked)
        self._on_pass(PassMade(parked[0][1].stage, num_rows, max(num_rows, max_rows), seconds))
        return [(sample, each) for (sample, _), each in zip(parked, returned, strict=True)]

    def _max_rows(self, sample: Sample, call: NetworkCall) -> int:
        """The rows of a pass with `call`, which its sample's room learns."""
        try:
            max_rows = self._row_caps.of(call)
        except Exception:  # the pass itself fails then, too
            max_rows = call.num_rows
        if call.stage == "denoise":
            # One that shares with nobody fills a pass.
            full_num_rows = max_rows if call.owner is None else call.num_rows
            self._rooms.learn(sample.room, call.num_rows, full_num_rows)
        return max_rows


def _run_tolerantly(calls: Sequence[NetworkCall], row_caps: RowCaps) -> list[Returned]:
    """One pass for all calls; where it fails, one for each half of them, and so on: what the call of one does must not
    end the others. Where memory ran out, later passes of the kind are as small."""
    try:
        return [Returned(result) for result in run_together(calls, row_caps.padded(calls))]
    except Exception as error:
        if len(calls) == 1:
            if is_out_of_memory(error):  # its traceback holds the pass's tensors, and others are made meanwhile
                error.add_note("".join(traceback.format_tb(error.__traceback__)))
                drop_tracebacks(error)
            return [Returned(error=error)]
        half = len(calls) // 2
        if is_out_of_memory(error):
            row_caps.lower(calls[0], sum(call.num_rows for call in calls[:half]))
    # Outside of `except`, where the error's traceback would keep the pass's tensors in memory.
    return _run_tolerantly(calls[:half], row_caps) + _run_tolerantly(calls[half:], row_caps)
