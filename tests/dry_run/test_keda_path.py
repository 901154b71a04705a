"""The part of GJSON that stands in the manifests."""

from __future__ import annotations

import pytest
from dry_run.keda import value_at

DOCUMENT = {"streams": [{"name": "A", "n": 1}, {"name": "JOBS", "n": 7}], "deep": {"er": 2}}


@pytest.mark.parametrize(
    ("path", "value"),
    [('streams.#(name=="JOBS").n', 7), ("streams.0.n", 1), ("deep.er", 2), ('streams.#(name=="A").name', "A")],
)
def test_value_at_a_path(path: str, value: object) -> None:
    assert value_at(DOCUMENT, path) == value


@pytest.mark.parametrize("path", ['streams.#(name=="absent").n', "streams.2.n", "absent", "deep.er.est"])
def test_no_value_is_told(path: str) -> None:
    with pytest.raises(ValueError, match="there is nothing at"):
        value_at(DOCUMENT, path)


@pytest.mark.parametrize("path", ["streams.#.n", "streams.#(n>1).name", "deep|er", "deep.*"])
def test_other_syntax_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        value_at(DOCUMENT, path)
