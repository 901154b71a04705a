"""How often somebody may ask, by a clock that is moved."""

from __future__ import annotations

import pytest

from sd_gateway.errors import TooManyRequests
from sd_gateway.rate_limits import Rate, RateLimit, parse_rate
from support.clock import Clock


def _num_taken(limit: RateLimit, key: str, tries: int = 100) -> int:
    """How many of so many uses at once are taken."""
    num = 0
    for _ in range(tries):
        try:
            limit.use(key)
        except TooManyRequests:
            continue
        num += 1
    return num


def test_as_many_as_the_rate_says_may_come_at_once(clock: Clock) -> None:
    assert _num_taken(RateLimit(Rate(20, 60), "calls"), "a") == 20


def test_uses_come_back_one_by_one(clock: Clock) -> None:
    limit = RateLimit(Rate(20, 60), "calls")
    _num_taken(limit, "a")
    clock.now += 2.9
    assert _num_taken(limit, "a") == 0
    clock.now += 0.1
    assert _num_taken(limit, "a") == 1
    clock.now += 60
    assert _num_taken(limit, "a") == 20


def test_over_long_no_more_come_through_than_the_rate(clock: Clock) -> None:
    limit = RateLimit(Rate(10, 60), "calls")
    num = 0
    for _ in range(3600):
        clock.now += 1
        num += _num_taken(limit, "a", tries=3)
    assert num == 10 + 600 - 1


def test_each_key_has_its_own(clock: Clock) -> None:
    limit = RateLimit(Rate(1, 60), "calls")
    assert _num_taken(limit, "a") == 1
    assert _num_taken(limit, "b") == 1


def test_who_waits_as_told_is_let_through(clock: Clock) -> None:
    limit = RateLimit(Rate(7, 60), "calls of yours")
    _num_taken(limit, "a")
    with pytest.raises(
        TooManyRequests, match=r"^Too many calls of yours: try again in 9 s \(7 in 60 s are allowed\)$"
    ) as refused:
        limit.use("a")
    assert refused.value.retry_after_s == 9
    clock.now += refused.value.retry_after_s
    limit.use("a")


def test_off_is_no_limit() -> None:
    assert _num_taken(RateLimit(None, "calls"), "a", tries=10_000) == 10_000


def test_keys_that_are_whole_again_take_no_memory(clock: Clock) -> None:
    limit = RateLimit(Rate(10, 60), "calls")
    for number in range(1000):
        limit.use(str(number))
    assert len(limit) == 1000
    clock.now += 61
    limit.use("another")
    assert len(limit) == 1


def test_a_flood_of_keys_does_not_fill_the_memory_and_does_not_free_who_asks_on(clock: Clock) -> None:
    limit = RateLimit(Rate(10, 3600), "calls", max_keys=100)
    _num_taken(limit, "a")
    for number in range(90):
        limit.use(f"flood {number}")
    assert _num_taken(limit, "a") == 0
    for number in range(1000):
        limit.use(f"flood {number}")
    assert len(limit) == 100


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20/minute", Rate(20, 60)), (" 5 / Hour ", Rate(5, 3600)), ("1/second", Rate(1, 1)), ("off", None)],
)
def test_a_rate_is_read(text: str, rate: Rate | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "20", "0/minute", "-1/minute", "20/day", "many/minute", "1.5/hour", "9" * 20])
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="such as 20/minute, or off"):
        parse_rate(text)
