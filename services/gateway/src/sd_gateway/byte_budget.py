"""How many bytes of bodies, or of answers, are in memory at once: of all clients together, and of each.

Slow clients decide for how long their bytes are held; without a bound, a few of them could fill the memory.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from sd_gateway.errors import Overloaded, TooManyRequests

#: Of each request, so many bytes do not count: what is small is never refused. A connection holds as much anyway.
FREE_BYTES = 64 * 1024


class ByteBudget:
    """At most `max_bytes`, and half of them of each holder: none takes them from all others."""

    def __init__(self, max_bytes: int, what: str) -> None:
        """`what` stands in the sentence for the client: "The <what> under way"."""
        self._max_bytes = max_bytes
        self._what = what
        #: Bytes may be taken in threads.
        self._lock = threading.Lock()
        #: Those that are held now.
        self.num_bytes = 0
        self._of_holder: Counter[str] = Counter()

    @contextmanager
    def share(self, *holders: str) -> Iterator[Share]:
        """A part of the budget that counts for each of `holders`, until the block ends."""
        share = Share(self, holders)
        try:
            yield share
        finally:
            self._give_back(share)

    def _take(self, share: Share, num_bytes: int) -> None:
        with self._lock:
            if share.is_over:
                raise Overloaded(f"The {self._what} had its time: try again")
            # Its client's own doing: no status of which operators are alerted.
            max_of_holder = self._max_bytes // 2
            if any(_is_full(share, num_bytes, self._of_holder[holder], max_of_holder) for holder in share.holders):
                raise TooManyRequests(self._sentence("of yours "))
            if _is_full(share, num_bytes, self.num_bytes, self._max_bytes):
                raise Overloaded(self._sentence(""))
            share.num_bytes += num_bytes
            self.num_bytes += num_bytes
            for holder in share.holders:
                self._of_holder[holder] += num_bytes

    def _sentence(self, whose: str) -> str:
        return (
            f"The {self._what} {whose}under way have as many bytes as may be held at once: try again when some of them "
            "have ended"
        )

    def _give_back(self, share: Share) -> None:
        with self._lock:
            share.is_over = True
            self.num_bytes -= share.num_bytes
            for holder in share.holders:
                self._of_holder[holder] -= share.num_bytes
                if not self._of_holder[holder]:
                    del self._of_holder[holder]


class Share:
    """What one request holds."""

    def __init__(self, budget: ByteBudget, holders: tuple[str, ...]) -> None:
        self._budget = budget
        self._num_free = FREE_BYTES
        self.holders = holders
        self.num_bytes = 0
        self.is_over = False

    def take(self, num_bytes: int) -> None:
        """Hold so many bytes more. Raises `TooManyRequests` where one of the holders has no room for them, and
        `Overloaded` where all together have none."""
        num_free = min(num_bytes, self._num_free)
        self._num_free -= num_free
        if num_bytes > num_free:
            self._budget._take(self, num_bytes - num_free)


def _is_full(share: Share, num_bytes: int, num_held: int, max_bytes: int) -> bool:
    """Whether `num_held` bytes leave no room for more of the share's. One that is alone has limits of its own, and
    would be refused for ever."""
    return num_held + num_bytes > max_bytes and num_held > share.num_bytes
