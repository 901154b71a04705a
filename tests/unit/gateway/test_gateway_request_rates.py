"""Requests a second, counted with a clock of the test's."""

from __future__ import annotations

import pytest

from sd_gateway import request_rates
from sd_gateway.errors import TooManyRequests
from sd_gateway.request_rates import RequestRates


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def _num_taken(rates: RequestRates, holder: str = "alice") -> int:
    """Requests until one is refused."""
    for number in range(10_000):
        try:
            rates.count(holder)
        except TooManyRequests:
            return number
    raise AssertionError("none was refused")


def test_ten_seconds_worth_may_come_at_once_and_then_as_many_as_the_rate(clock: _Clock) -> None:
    rates = RequestRates(5, clock)
    assert _num_taken(rates) == 50
    clock.now_s += 1
    assert _num_taken(rates) == 5
    clock.now_s += 1000
    assert _num_taken(rates) == 50


def test_a_refusal_tells_when_to_come_again(clock: _Clock) -> None:
    rates = RequestRates(0.1, clock)
    rates.count("alice")
    with pytest.raises(TooManyRequests, match=r"More than 0\.1 requests a second") as caught:
        rates.count("alice")
    assert caught.value.retry_after_s == 10
    clock.now_s += 10
    rates.count("alice")


def test_a_refused_request_costs_nothing(clock: _Clock) -> None:
    rates = RequestRates(1, clock)
    _num_taken(rates)
    for _ in range(100):
        with pytest.raises(TooManyRequests):
            rates.count("alice")
    clock.now_s += 1
    rates.count("alice")


def test_users_are_counted_apart(clock: _Clock) -> None:
    rates = RequestRates(1, clock)
    _num_taken(rates, "mallory")
    rates.count("alice")


def test_users_who_have_gone_are_forgotten_and_those_at_their_limit_are_not(
    clock: _Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_rates, "_MAX_BUCKETS", 10)
    rates = RequestRates(1, clock)
    for number in range(10):
        rates.count(f"user{number}")
    clock.now_s += 5
    _num_taken(rates, "mallory")
    clock.now_s += 5
    rates.count("alice")
    assert set(rates._buckets) == {"mallory", "alice"}
    assert _num_taken(rates, "mallory") == 5
