"""How often somebody may ask for something. Each gateway counts for itself, in memory (ADR 24)."""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from sd_gateway.errors import TooManyRequests

_PERIODS_S = {"second": 1, "minute": 60, "hour": 3600}
_RATE = re.compile(rf"(\d{{1,9}})\s*/\s*({'|'.join(_PERIODS_S)})")
#: A flood of keys must not fill the memory. The one that was quiet for longest is forgotten first.
_MAX_KEYS = 100_000
#: Far more than sums of floats are off by: the last use of a rate is one too.
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class Rate:
    """So many in each period, in seconds. All of them may come at once."""

    num: int
    period_s: float

    def __str__(self) -> str:
        return f"{self.num} in {self.period_s:g} s"


def parse_rate(value: Any) -> Any:
    """`20/minute`; `off` is no limit."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text == "off":
        return None
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a number above 0 per second, minute or hour, such as 20/minute, or off")
    return Rate(int(match[1]), _PERIODS_S[match[2]])


#: The type of a setting.
RateSetting = Annotated[Rate | None, NoDecode, BeforeValidator(parse_rate)]


class RateLimit:
    """One rate, which each key may use up for itself. A use comes back after `period_s / num` seconds."""

    def __init__(self, rate: Rate | None, what: str, max_keys: int = _MAX_KEYS) -> None:
        """`what` stands in the sentence for the client: "Too many <what>"."""
        self._rate = rate
        self._what = what
        self._max_keys = max_keys
        #: When all uses of a key will have come back, the key that was used last at the end.
        self._whole_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._whole_at)

    def use(self, key: str) -> None:
        """Count one use, or raise `TooManyRequests` and count nothing."""
        if self._rate is None:
            return
        now = time.monotonic()
        whole_at = max(self._whole_at.get(key, now), now) + self._rate.period_s / self._rate.num
        wait_s = whole_at - now - self._rate.period_s
        if wait_s > _ROUNDING_S:
            retry_after_s = math.ceil(wait_s)
            sentence = f"Too many {self._what}: try again in {retry_after_s} s ({self._rate} are allowed)"
            raise TooManyRequests(sentence, retry_after_s)
        self._whole_at[key] = whole_at
        self._whole_at.move_to_end(key)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop keys that have all their uses again, and what is too many."""
        while next(iter(self._whole_at.values())) <= now or len(self._whole_at) > self._max_keys:
            self._whole_at.popitem(last=False)
