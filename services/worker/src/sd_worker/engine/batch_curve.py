"""The batch curve: how many rows a second a device makes in passes of more and more rows, and where its knee is.

More rows cost less each, up to a point: there the device is busy, and more rows only make everybody wait longer for the
step (an oversized batch raised the median latency by half and gave no throughput).
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable

from sd_worker.engine.devices import is_out_of_memory

_log = logging.getLogger(__name__)

#: Twice the rows must make this many times as many of them a second.
_WORTHWHILE_SPEEDUP = 1.05
#: There is no gain beyond, on any device that was measured.
MOST_ROWS = 64
#: Seconds that one timed pass may take, as far as the one before tells: a slow device is not worth the wait.
_LONGEST_PASS_S = 0.75
#: One round does not do: another process may have the cores for the time of some passes, and a cap stays. After these
#: further ones begin until there have been so many, or until this many seconds have passed.
_FEWEST_ROUNDS = 2
_MOST_ROUNDS = 4
_LONG_ENOUGH_S = 1.0


def knee_of(make_a_pass: Callable[[int], None], fewest_rows: int) -> int:
    """The rows from which on twice as many are not worth it, of `fewest_rows` and its doubles.

    `make_a_pass` makes one of so many rows, and returns when it is done. Rows with which it raises are too many. Raises
    what it raises with the fewest.
    """
    curve = _BatchCurve(make_a_pass, fewest_rows)
    started_at = time.perf_counter()
    for num_rounds in range(1, _MOST_ROUNDS + 1):
        curve.time_each()
        is_long_enough = num_rounds >= _FEWEST_ROUNDS and time.perf_counter() - started_at > _LONG_ENOUGH_S
        if is_long_enough or not curve.has_a_choice:
            break
    return curve.knee


class _BatchCurve:
    def __init__(self, make_a_pass: Callable[[int], None], fewest_rows: int) -> None:
        self._make_a_pass = make_a_pass
        self._fewest_rows = fewest_rows
        self._most_rows = max(MOST_ROWS, fewest_rows)
        #: Seconds of the fastest pass, by its rows.
        self._fastest_s: dict[int, float] = {}

    @property
    def has_a_choice(self) -> bool:
        return len(self._fastest_s) > 1

    @property
    def knee(self) -> int:
        return max(self._fastest_s, key=self._worth)

    def time_each(self) -> None:
        """A round: a pass of each number of rows, until twice as many were not worth it twice, or take too long."""
        for doublings in itertools.count():
            num_rows = self._fewest_rows << doublings
            if num_rows > self._most_rows:
                return
            try:
                self._time(num_rows)
            except Exception as error:
                if num_rows == self._fewest_rows:
                    raise
                if not is_out_of_memory(error):  # though it may be one: libraries tell that in many ways
                    _log.warning("passes of so many rows fail", extra={"num_rows": num_rows}, exc_info=error)
                self._most_rows = num_rows // 2
                self._fastest_s = {rows: s for rows, s in self._fastest_s.items() if rows < num_rows}
                return
            if num_rows >= 4 * self.knee or 2 * self._fastest_s[num_rows] > _LONGEST_PASS_S:
                return

    def _time(self, num_rows: int) -> None:
        if num_rows not in self._fastest_s:
            self._make_a_pass(num_rows)  # the first of a size allocates memory, and chooses kernels
        started_at = time.perf_counter()
        self._make_a_pass(num_rows)
        pass_s = time.perf_counter() - started_at
        self._fastest_s[num_rows] = min(pass_s, self._fastest_s.get(num_rows, math.inf))

    def _worth(self, num_rows: int) -> float:
        """Rows a second, less what each doubling must bring: so one that was timed badly does not hide those beyond."""
        return float(num_rows / self._fastest_s[num_rows] / _WORTHWHILE_SPEEDUP ** math.log2(num_rows))
