"""The READMEs say what each module is for."""

from __future__ import annotations

import re

import pytest

from supply_chain.dockerfiles import ROOT


@pytest.mark.parametrize("package", ["libs/common", "services/gateway", "services/auth", "services/worker", "embedded"])
def test_the_readme_of_a_package_names_its_modules_and_no_others(package: str) -> None:
    [source] = (init.parent for init in (ROOT / package / "src").glob("*/__init__.py"))
    modules = [str(path.relative_to(source)) for path in source.rglob("*.py") if path.name != "__init__.py"]
    table = (ROOT / package / "README.md").read_text().partition("\n## Modules\n")[2]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(.+?)`", row)]
    assert sorted(name for name in named if name.endswith(".py")) == sorted(modules)
