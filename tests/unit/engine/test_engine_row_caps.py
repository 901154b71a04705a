"""The knee of the batch curve, on networks whose passes take what a clock of the test says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from unit.engine.recorder import CPU

from sd_worker.engine import batch_curve
from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.row_caps import RowCaps


class Clock:
    """Goes on by what passes take."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Network(torch.nn.Module):
    """A pass of n rows takes `pass_s(n)` seconds."""

    def __init__(self, clock: Clock, pass_s: Callable[[int], float]) -> None:
        super().__init__()
        self._clock = clock
        self._pass_s = pass_s
        self.rows: list[int] = []

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
        self.rows.append(latents.shape[0])
        self._clock.now_s += self._pass_s(latents.shape[0])
        return (latents,)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batch_curve, "time", clock)
    return clock


def call_of(
    network: torch.nn.Module,
    num_rows: int = 2,
    width: int = 8,
    owner: int | None = None,
    num_fixed_rows: int | None = None,
) -> NetworkCall:
    return NetworkCall("denoise", network, (torch.zeros(num_rows, 4, 8, width),), {}, owner, num_fixed_rows)


@pytest.mark.parametrize(
    ("pass_s", "num_rows"),
    [
        (lambda rows: 0.001 * rows, 2),  # each row costs the same
        (lambda rows: 0.01, 64),  # rows cost nothing, up to the most that is tried
        (lambda rows: 0.01 + max(0, rows - 8) * 0.00125, 8),  # a knee
        (lambda rows: 0.01 + (0.02 if rows == 8 else 0), 64),  # one that is slow, and not those beyond
        (lambda rows: 0.001 * rows**0.85, 64),  # 10 % less each
        (lambda rows: 0.001 * rows**0.95, 2),  # 3 %
        (lambda rows: 0.13 * rows**0.8, 4),  # too slow for more to be measured
        (lambda rows: 1.0, 2),  # for any
    ],
)
def test_rows_are_doubled_while_each_then_costs_enough_less(
    clock: Clock, pass_s: Callable[[int], float], num_rows: int
) -> None:
    assert RowCaps(CPU).of(call_of(Network(clock, pass_s))) == num_rows


@pytest.mark.parametrize("slow_rows", [(2,), (4, 8, 16), (32,), (32, 64)])
def test_who_has_the_cores_for_a_while_does_not_change_the_cap(clock: Clock, slow_rows: tuple[int, ...]) -> None:
    num_passes = Counter[int]()

    def pass_s(rows: int) -> float:
        num_passes[rows] += 1
        is_slow = rows in slow_rows and num_passes[rows] <= 2  # the first, which is not timed, and that of a round
        return 0.002 * max(rows, 32) * (5 if is_slow else 1)

    assert RowCaps(CPU).of(call_of(Network(clock, pass_s))) == 32


def test_a_slow_network_is_measured_for_seconds(clock: Clock) -> None:
    RowCaps(CPU).of(call_of(Network(clock, lambda rows: 0.02 * rows**0.9)))
    assert clock.now_s < 4


def test_each_size_is_measured_once(clock: Clock) -> None:
    network = Network(clock, lambda rows: 0.001 * rows)
    caps = RowCaps(CPU)
    caps.of(call_of(network))
    measured = len(network.rows)
    caps.of(call_of(network, num_rows=1))
    caps.of(call_of(network, width=9))  # about as large
    assert len(network.rows) == measured
    caps.of(call_of(network, width=16))
    assert len(network.rows) > measured


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("unable to find an engine to execute this")]
)
def test_rows_that_are_too_many_end_the_measurement(clock: Clock, error: Exception) -> None:
    def pass_s(rows: int) -> float:
        if rows > 8:
            raise error
        return 0.01

    network = Network(clock, pass_s)
    caps = RowCaps(CPU)
    assert caps.of(call_of(network)) == 8
    network.rows.clear()
    assert caps.of(call_of(network)) == 8
    assert network.rows == []


def test_rows_that_were_too_many_once_are_no_cap(clock: Clock) -> None:
    num_passes = Counter[int]()

    def pass_s(rows: int) -> float:
        num_passes[rows] += 1
        if rows == 16 and num_passes[rows] > 2:  # others have taken memory meanwhile
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.01

    assert RowCaps(CPU).of(call_of(Network(clock, pass_s))) == 8


def test_a_cap_is_lowered_where_memory_ran_out_also_one_that_was_set(clock: Clock) -> None:
    call = call_of(Network(clock, lambda rows: 0.01))
    caps = RowCaps(CPU, fixed=16)
    assert caps.of(call) == 16
    caps.lower(call, 4)
    assert caps.of(call) == 4


def test_fixed_rows_and_an_owner_leave_nothing_to_measure(clock: Clock) -> None:
    network = Network(clock, lambda rows: 0.01)
    assert RowCaps(CPU).of(call_of(network, num_fixed_rows=8)) == 8
    assert RowCaps(CPU).of(call_of(network, owner=1)) == 2
    assert RowCaps(CPU).of(call_of(network, owner=1, num_fixed_rows=8)) == 2
    assert network.rows == []


def test_passes_of_compiled_networks_are_padded_to_a_power_of_two_and_not_beyond_the_cap(clock: Clock) -> None:
    network = Network(clock, lambda rows: 0.01)
    calls = [call_of(network), call_of(network), call_of(network, num_rows=1)]
    assert RowCaps(CPU, in_buckets=True).padded(calls) == 8
    assert RowCaps(CPU, fixed=6, in_buckets=True).padded(calls) == 6
    assert RowCaps(CPU, fixed=2, in_buckets=True).padded(calls[:1]) == 2
    assert RowCaps(CPU, fixed=1, in_buckets=True).padded(calls[:1]) == 2  # it alone has more
    assert RowCaps(CPU, in_buckets=True).padded([call_of(network, owner=1)]) is None
    assert RowCaps(CPU).padded(calls) is None
    assert RowCaps(CPU).padded([call_of(network, num_fixed_rows=8)]) == 8


def test_another_size_of_a_compiled_network_has_a_cap_by_the_firsts(clock: Clock) -> None:
    """To measure it would be to compile the network for each number of rows."""
    network = Network(clock, lambda rows: 0.01 + max(0, rows - 8) * 0.00125)
    caps = RowCaps(CPU, in_buckets=True)
    assert caps.of(call_of(network)) == 8
    network.rows.clear()
    assert caps.of(call_of(network, width=16)) == 4
    assert caps.of(call_of(network, width=4)) == 16
    assert caps.of(call_of(network, width=1)) == 64
    assert caps.of(call_of(network, width=512)) == 2  # fewer than a call has there are not
    assert network.rows == []


@pytest.mark.parametrize(("fixed", "num_rows"), [(6, [1, 2, 4, 6]), (1, [1, 2]), (8, [1, 2, 4, 8])])
def test_a_network_is_compiled_for_all_that_its_passes_are_padded_to(
    clock: Clock, fixed: int, num_rows: list[int]
) -> None:
    network = Network(clock, lambda rows: 0.01)
    caps = RowCaps(CPU, fixed=fixed, in_buckets=True)
    assert caps.of(call_of(network)) == fixed
    assert network.rows == num_rows
    caps.of(call_of(network, width=16))  # as it comes
    assert network.rows == num_rows


def test_memory_that_runs_out_while_a_network_is_compiled_lowers_the_cap(clock: Clock) -> None:
    def pass_s(rows: int) -> float:
        if rows > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.01

    assert RowCaps(CPU, fixed=16, in_buckets=True).of(call_of(Network(clock, pass_s))) == 4
