"""Bytes in memory: of all, and of each holder."""

from __future__ import annotations

import pytest

from sd_gateway.byte_budget import FREE_BYTES, ByteBudget
from sd_gateway.errors import Overloaded, TooManyRequests

_MIB = 2**20
_OF_OTHERS = r"^The bodies under way have as many bytes as may be held at once: try again"
_OF_YOURS = r"^The bodies of yours under way have as many bytes"


def test_a_holder_has_half_and_all_have_the_whole() -> None:
    budget = ByteBudget(4 * _MIB, "bodies")
    with budget.share("alice") as first, budget.share("bob") as second, budget.share("carol") as third:
        first.take(FREE_BYTES + 2 * _MIB)
        with budget.share("alice") as another, pytest.raises(TooManyRequests, match=_OF_YOURS):
            another.take(FREE_BYTES + 1)
        second.take(FREE_BYTES + 2 * _MIB)
        with pytest.raises(Overloaded, match=_OF_OTHERS):
            third.take(FREE_BYTES + 1)
    with budget.share("alice") as again:
        again.take(FREE_BYTES + 2 * _MIB)


def test_another_name_at_the_same_address_brings_no_more() -> None:
    budget = ByteBudget(4 * _MIB, "bodies")
    with budget.share("alice", "192.0.2.1") as first, budget.share("bob", "192.0.2.1") as second:
        first.take(FREE_BYTES + 2 * _MIB)
        with pytest.raises(TooManyRequests, match=_OF_YOURS):
            second.take(FREE_BYTES + 1)
        with budget.share("bob", "192.0.2.2") as elsewhere:
            elsewhere.take(FREE_BYTES + 1)


def test_what_is_small_is_never_refused() -> None:
    budget = ByteBudget(4 * _MIB, "bodies")
    with budget.share("alice") as first, budget.share("bob") as second, budget.share("carol") as small:
        for share in (first, second):
            share.take(FREE_BYTES + 2 * _MIB)
        for _ in range(FREE_BYTES):
            small.take(1)
        with pytest.raises(Overloaded):
            small.take(1)


def test_what_is_alone_is_never_refused_however_large() -> None:
    budget = ByteBudget(4 * _MIB, "bodies")
    with budget.share("alice") as share:
        for _ in range(8):
            share.take(_MIB)
        with budget.share("bob") as other, pytest.raises(Overloaded, match=_OF_OTHERS):
            other.take(FREE_BYTES + 1)


def test_what_comes_after_its_share_has_ended_is_refused_and_counts_for_nothing() -> None:
    """A thread that reads on."""
    budget = ByteBudget(4 * _MIB, "bodies")
    with budget.share("alice") as late:
        late.take(FREE_BYTES + 1)
    with pytest.raises(Overloaded):
        late.take(1)
    with budget.share("alice") as first, budget.share("alice") as second:
        for share in (first, second):
            share.take(FREE_BYTES + _MIB)
