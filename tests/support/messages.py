"""Messages that are almost right, for tests with random input."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=10), children, max_size=3),
    max_leaves=8,
)


@st.composite
def changed_json(draw: st.DrawFn, message: Json) -> bytes:
    """The message with some of its values changed, gone or doubled, and maybe cut off."""
    changed = copy.deepcopy(message)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            break
        holder, name = draw(st.sampled_from(places))
        match draw(st.sampled_from(["replace", "remove", "wrap", "text"])):
            case "replace":
                holder[name] = draw(json_values)
            case "remove":
                del holder[name]
            case "wrap":
                holder[name] = [holder[name]]
            case "text":
                holder[name] = str(holder[name]) + draw(st.text(max_size=3))
    data = json.dumps(changed).encode()  # with NaN and lone surrogates, as other programs may send them
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def _places(value: Any) -> Iterator[tuple[Json, str]]:
    """Every object with each name in it."""
    if isinstance(value, dict):
        for name, held in value.items():
            yield value, name
            yield from _places(held)
