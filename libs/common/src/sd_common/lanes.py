"""The lanes of a model's queue: which of its user's tasks a job is decides in which it waits (ADR 18).

So the n-th task of a user waits behind others' n-th ones, however many more those have queued. The number of lanes is
constant: workers need not find out who is there.
"""

from __future__ import annotations

from typing import Literal

Lane = Literal["first", "next", "rest"]
LANES: tuple[Lane, ...] = ("first", "next", "rest")

#: Of a user with fewer unfinished tasks than this, one more goes to `first`: only those who wait for nothing else.
#: Each further one of somebody who queues many would be in the way of everybody's first.
_FIRST_BELOW = 1
#: Likewise for `next`: a person who compares pictures asks for up to eight at once.
_NEXT_BELOW = 8

#: Jobs that a lane may give before the later lanes give one: two users' first tasks are so among the next three jobs
#: that are taken, and later lanes are not starved.
NUM_IN_A_ROW = 2


def lane_of(num_unfinished: int) -> Lane:
    """The lane of one more task of a user who has `num_unfinished` that have not ended."""
    if num_unfinished < _FIRST_BELOW:
        return "first"
    return "next" if num_unfinished < _NEXT_BELOW else "rest"
