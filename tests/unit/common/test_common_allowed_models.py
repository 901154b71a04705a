"""Which models tasks may name."""

from __future__ import annotations

import pytest

from sd_common.allowed_models import check_model_allowed, is_model_allowed
from sd_common.errors import ModelNotAllowed


@pytest.mark.parametrize("name", ["shapes", "owner/name", "owner/name@main"])
def test_without_patterns_all_models_are_allowed(name: str) -> None:
    assert is_model_allowed(name, ())


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("shapes", ["shapes"], ["shapes2", "Shapes", "owner/shapes"]),
        ("owner/*", ["owner/name", "owner/other"], ["owner", "owners/name", "shapes", "owner/name@main"]),
        ("*", ["shapes", "owner/name"], ["owner/name@refs/pr/1"]),
        ("*@*", ["shapes", "owner/name", "owner/name@v1"], []),
        ("owner/name@v?", ["owner/name@v1"], ["owner/name", "owner/name@v10", "owner/name@main"]),
        ("owner/name@39593d5", ["owner/name@39593d5"], ["owner/name", "owner/name@39593d6"]),
        ("runwayml/stable-diffusion-v1-5", ["stable-diffusion-v1-5/stable-diffusion-v1-5"], []),
    ],
)
def test_a_pattern_allows_what_it_matches(pattern: str, allowed: list[str], refused: list[str]) -> None:
    assert [name for name in allowed if not is_model_allowed(name, (pattern,))] == []
    assert [name for name in refused if is_model_allowed(name, (pattern,))] == []


def test_one_pattern_of_many_is_enough_and_the_refusal_tells_all() -> None:
    check_model_allowed("b", ("a", "b"))
    with pytest.raises(ModelNotAllowed, match=r"^Model 'c' is not allowed here: name one of a, b/\*$"):
        check_model_allowed("c", ("a", "b/*"))
