"""A forward pass that fails for the guilty alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sd_worker.engine.batches import NetworkCall, run_together
from sd_worker.engine.devices import is_out_of_memory
from sd_worker.engine.row_caps import RowCaps


@dataclass(frozen=True)
class Broken:
    """In place of a call's result: what it raised."""

    error: Exception


def run_tolerantly(calls: Sequence[NetworkCall], row_caps: RowCaps) -> list[object]:
    """One pass for all calls; where it fails, one for each half of them, and so on: what the call of one does must not
    end the others. Where memory ran out, later passes of the kind are as small."""
    try:
        return run_together(calls, row_caps.padded(calls))
    except Exception as error:
        if len(calls) == 1:
            return [Broken(error)]
        half = len(calls) // 2
        if is_out_of_memory(error):
            row_caps.lower(calls[0], sum(call.num_rows for call in calls[:half]))
    # Outside of `except`, where the error's traceback would keep the pass's tensors in memory.
    return run_tolerantly(calls[:half], row_caps) + run_tolerantly(calls[half:], row_caps)
