"""Which lane of a model is taken from next (ADR 18).

A lane goes before the later ones, `NUM_IN_A_ROW` times; then one of those goes before it. Where all have jobs, `first`
thus gives two of three, `next` two of nine and `rest` one of nine; a lane without jobs leaves its share to the others.
"""

from __future__ import annotations

from collections import Counter

from sd_common.lanes import LANES, NUM_IN_A_ROW
from sd_common.subjects import ModelLane


class LaneTurns:
    """The turns of the lanes of all models, as one worker keeps them."""

    def __init__(self) -> None:
        #: Jobs that each lane gave since a later one did.
        self._num_in_a_row = Counter[ModelLane]()

    def order(self, model_key: str) -> list[ModelLane]:
        """The model's lanes, the one whose turn it is first."""
        order: list[ModelLane] = []
        for lane in [ModelLane(model_key, lane) for lane in reversed(LANES)]:
            has_had_its_turns = self._num_in_a_row[lane] >= NUM_IN_A_ROW
            order = [*order, lane] if has_had_its_turns else [lane, *order]
        return order

    def took(self, lane: ModelLane) -> None:
        """A job of this lane was taken."""
        self._num_in_a_row[lane] += 1
        for earlier in LANES[: LANES.index(lane.lane)]:
            self._num_in_a_row[ModelLane(lane.model_key, earlier)] = 0
