"""Ask whether something is known against what constraints.txt pins: `python -m supply_chain.audit`.

pip-audit asks OSV (https://osv.dev) about each pin, so about all that the images install, and about the tools of this
repository. Where OSV cannot be asked nothing is audited; one line says so, and it is no failure unless `--required` is
given. What is ignored stands in pyproject.toml (`[tool.supply-chain]`), with a reason and a day after which it is not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

_ROOT = Path(__file__).parents[2]
_OSV_URL = "https://api.osv.dev/v1/query"
_TIMEOUT_S = 15
#: Known to be vulnerable since 2020 (CVE-2020-14343): who says nothing of it cannot be asked.
_CANARY = "PyYAML==5.3"


class Ignored(BaseModel):
    """A known vulnerability that does not count here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    reason: str
    #: The last day on which it is ignored.
    until: date


def read_ignored(pyproject: Path) -> list[Ignored]:
    """What pyproject.toml says is to be ignored."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["supply-chain"]
    return TypeAdapter(list[Ignored]).validate_python(table["ignored_vulnerabilities"])


def audit(pins: Path, ignored: Sequence[Ignored], osv_url: str, *, required: bool) -> int:
    """Print what is known against the pins, and return an exit status: 1 where there is something that is not ignored,
    where something was ignored for too long, or where an audit is required and there was none."""
    today = datetime.now(UTC).date()
    if overdue := [each for each in ignored if each.until < today]:
        for each in overdue:
            print(
                f"{each.id} was to be ignored until {each.until} ({each.reason}): look again, and mend pyproject.toml"
            )
        return 1
    if not _can_be_asked(osv_url):
        print(
            f"NOT AUDITED: {osv_url} does not answer, or knows of no vulnerabilities. Run `make audit` where it does."
        )
        return 1 if required else 0
    exceptions = [f"--ignore-vuln={each.id}" for each in ignored]
    return _pip_audit(pins, osv_url, *exceptions).returncode


def _can_be_asked(osv_url: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as canary:
        canary.write(_CANARY)
        canary.flush()
        answer = _pip_audit(Path(canary.name), osv_url, "--format=json", capture_output=True).stdout
    try:
        return any(each["vulns"] for each in json.loads(answer)["dependencies"])
    except ValueError:
        return False


def _pip_audit(
    pins: Path, osv_url: str, *options: str, capture_output: bool = False
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pip_audit", f"--requirement={pins}", "--no-deps", "--disable-pip", "--strict"]
    command += ["--vulnerability-service=osv", f"--osv-url={osv_url}", f"--timeout={_TIMEOUT_S}"]
    command += ["--progress-spinner=off", *options]
    return subprocess.run(command, capture_output=capture_output, check=False)  # noqa: S603 - pip-audit


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="supply_chain.audit", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pins", type=Path, default=_ROOT / "constraints.txt", help="what is pinned")
    parser.add_argument("--osv-url", default=_OSV_URL, help="whom to ask")
    parser.add_argument("--required", action="store_true", help="fail where nobody can be asked")
    given = parser.parse_args(arguments)
    return audit(given.pins, read_ignored(_ROOT / "pyproject.toml"), given.osv_url, required=given.required)


if __name__ == "__main__":
    sys.exit(main())
