"""Random delays after which one of many workers does what one alone has to do."""

from __future__ import annotations

import math
import random

#: Of up to this many workers a few are early.
_MAX_WORKERS = 10_000


def spread_s(window_s: float) -> float:
    """A delay up to `window_s`, mostly a late one.

    The first of few workers is late in the window, the first of many is early; and however many there are, on average
    one other is early by the same 1/13 of the window. In the rest they hear of it (feedback timers as in RFC 5740).
    """
    return window_s * max(0.0, 1 + math.log(1 - random.random()) / math.log(_MAX_WORKERS))
