"""Log lines, as a process writes them: its own process, since logs are configured once in one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_PROGRAM = """
import logging
import structlog
from opentelemetry import context, trace
from structlog.contextvars import bound_contextvars
from sd_common.logs import LogSettings, configure_logs
from sd_common.tracing import continued_trace

configure_logs(LogSettings(_env_file=None, log_level="INFO", log_format=FORMAT), "gateway")
log = structlog.get_logger("sd_gateway.submit")
log.info("plain", count=3, odd=object)
log.debug("hidden")
with bound_contextvars(task_id="task-1"):
    log.info("bound")
    with bound_contextvars(task_id="task-2"):
        logging.getLogger("sqlalchemy").warning("foreign %s", "words", extra={"rows": 2})
log.info("unbound")
with continued_trace({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
    log.info("traced")
try:
    raise ValueError("broken\\nin two lines")
except ValueError:
    log.exception("failed", task_id="task-3")
    logging.getLogger("foreign").exception("foreign failed")
logging.getLogger("nats").info("hidden chatter")
log.info("unicode", prompt="ein Corgi im Café\\n\\udcff")
"""


def _written(log_format: str) -> str:
    program = _PROGRAM.replace("FORMAT", repr(log_format))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    return done.stderr


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, Any]]:
    """Lines by what they tell."""
    parsed: list[dict[str, Any]] = [json.loads(line) for line in _written("json").splitlines()]
    return {line["event"]: line for line in parsed}


def test_every_line_is_json_with_level_time_and_service(lines: dict[str, dict[str, Any]]) -> None:
    assert list(lines) == [
        "plain",
        "bound",
        "foreign words",
        "unbound",
        "traced",
        "failed",
        "foreign failed",
        "unicode",
    ]
    for line in lines.values():
        assert line["service"] == "gateway"
        assert line["level"] in ("info", "warning", "error")
        assert line["time"].endswith("Z")


def test_values_stand_as_fields(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["plain"]["count"] == 3
    assert lines["plain"]["odd"] == "<class 'object'>"
    assert lines["foreign words"]["rows"] == 2
    assert lines["unicode"]["prompt"] == "ein Corgi im Café\n\udcff"


def test_the_task_stands_in_every_line_inside_and_in_none_outside(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["bound"]["task_id"] == "task-1"
    assert lines["foreign words"]["task_id"] == "task-2"
    assert "task_id" not in lines["plain"]
    assert "task_id" not in lines["unbound"]


def test_the_trace_is_told(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["traced"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "trace_id" not in lines["failed"]


@pytest.mark.parametrize("event", ["failed", "foreign failed"])
def test_an_exception_stands_in_the_line(event: str, lines: dict[str, dict[str, Any]]) -> None:
    assert "ValueError: broken\nin two lines" in lines[event]["exception"]
    assert "Traceback" in lines[event]["exception"]
    assert lines[event]["level"] == "error"


def test_on_a_console_lines_are_for_people() -> None:
    written = _written("console")
    assert "bound" in written
    assert "task-1" in written
    assert "ValueError: broken" in written
    assert "hidden" not in written
