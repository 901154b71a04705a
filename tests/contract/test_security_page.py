"""`docs/security.md`: every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "security.md").read_text(encoding="utf-8")
_ROWS = [line for line in _PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack |")]
_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("row", _ROWS, ids=lambda row: row[2:50])
def test_every_attack_has_tests_that_are_there(row: str) -> None:
    named = _TEST.findall(row.rsplit("|", 2)[1])
    assert named, "the row names no test"
    for path, name in named:
        tree = ast.parse((_ROOT / "tests" / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{path} has no {name}"
