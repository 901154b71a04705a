"""What hypothesis does in `make test`: the same every time, and a failure is told in full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st


def test_a_failed_example_is_told_with_its_values() -> None:
    @given(number=st.just(5))
    def fail(number: int) -> None:
        raise AssertionError

    with pytest.raises(AssertionError) as raised:
        fail()
    assert "number=5" in "".join(raised.value.__notes__)


def test_the_examples_are_the_same_every_time() -> None:
    tried: list[list[int]] = []

    def try_some() -> None:
        numbers: list[int] = []

        @given(st.integers())
        def remember(number: int) -> None:
            numbers.append(number)

        remember()
        tried.append(numbers)

    try_some()
    try_some()
    assert tried[0] == tried[1]
