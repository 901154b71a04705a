"""Whose turn it is."""

from __future__ import annotations

from typing import Any, cast

import torch

from sd_worker.engine.batches import NetworkCall
from sd_worker.engine.groups import Groups
from sd_worker.engine.samples import Sample

NETWORK = torch.nn.Identity()


def call(side: int, num_rows: int = 2) -> NetworkCall:
    return NetworkCall("denoise", NETWORK, (torch.zeros(num_rows, 4, side, side),), {})


def groups_of(*waiting: tuple[str, NetworkCall]) -> Groups:
    """Of samples of which only the names matter."""
    groups = Groups()
    for name, waits_for in waiting:
        groups.add(cast(Sample, name), waits_for)
    return groups


def taken(groups: Groups, num_rows: int) -> list[Any]:
    return [sample for sample, _ in groups.take(num_rows)]


def test_who_has_waited_longest_in_a_group_goes_first_up_to_the_rows() -> None:
    groups = groups_of(("a", call(8)), ("b", call(8)), ("c", call(8)))

    assert groups.first()[0] == cast(Any, "a")
    assert taken(groups, 4) == ["a", "b"]
    groups.add(cast(Sample, "a"), call(8))
    assert taken(groups, 4) == ["c", "a"]
    assert not groups


def test_groups_take_turns_whatever_is_added_to_them() -> None:
    groups = groups_of(("a", call(8)), ("large", call(16)), ("b", call(8)), ("c", call(8)))

    assert taken(groups, 2) == ["a"]
    groups.add(cast(Sample, "a"), call(8))
    assert taken(groups, 2) == ["large"]
    groups.add(cast(Sample, "large"), call(16))
    assert taken(groups, 2) == ["b"]
    assert taken(groups, 2) == ["large"]
    assert taken(groups, 4) == ["c", "a"]


def test_one_that_is_larger_than_a_pass_is_taken_alone() -> None:
    groups = groups_of(("a", call(8, num_rows=4)), ("b", call(8, num_rows=1)))

    assert taken(groups, 2) == ["a"]
    assert taken(groups, 2) == ["b"]


def test_one_that_does_not_fit_is_not_overtaken_by_a_smaller_one() -> None:
    groups = groups_of(("a", call(8)), ("b", call(8)), ("small", call(8, num_rows=1)))

    assert taken(groups, 3) == ["a"]
    assert taken(groups, 3) == ["b", "small"]


def test_who_waits_no_more_leaves_no_empty_group() -> None:
    groups = groups_of(("a", call(8)), ("b", call(16)))

    groups.discard(cast(Sample, "a"))
    groups.discard(cast(Sample, "unknown"))

    assert groups.first()[0] == cast(Any, "b")
    groups.discard(cast(Sample, "b"))
    assert not groups
