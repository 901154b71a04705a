"""What exporting traces costs a process: nothing where it is off, and no long stop where the collector is away."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from sd_common.trace_export import TraceSettings
from support.collector import serve_collector

_SPAN = """
import sys
from sd_common.logs import LogSettings, configure_logs
from sd_common.trace_export import TraceSettings, exporting_traces
from sd_common.tracing import span, trace_headers

configure_logs(LogSettings(_env_file=None), "auth")
with exporting_traces(TraceSettings(_env_file=None), "auth"), span("work"):
    print(trace_headers())
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk", "google.protobuf", "requests"))))
"""


def _run(**env: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | env
    command = [sys.executable, "-W", "error", "-c", _SPAN]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)


@pytest.mark.parametrize("env", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, {"OTEL_TRACES_SAMPLER": "always_on"}])
def test_without_a_collector_nothing_is_traced_and_nothing_imported(env: dict[str, str]) -> None:
    assert _run(**env).stdout.splitlines() == ["{}", "[]"]


def test_what_is_left_is_sent_at_the_end() -> None:
    with serve_collector() as collector:
        _run(OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/", OTEL_SERVICE_NAME="of-the-operator")
        [exported] = collector.spans
    assert exported.span.name == "work"
    assert exported.service == "of-the-operator"


@pytest.mark.parametrize(
    ("sampler", "share", "num_spans"),
    [("always_off", "1", 0), ("traceidratio", "0", 0), ("parentbased_traceidratio", "1", 1), ("always_on", "0", 1)],
)
def test_the_sampler_decides_what_is_sent(sampler: str, share: str, num_spans: int) -> None:
    with serve_collector() as collector:
        variables = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": share}
        _run(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables)
        assert len(collector.spans) == num_spans


def test_a_collector_that_is_away_holds_up_a_stop_for_seconds_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and never answers
        started_at = time.monotonic()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = _run(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    assert time.monotonic() - started_at < 25, "the SDK itself would wait for 30 s"
    for line in done.stderr.splitlines():
        assert json.loads(line)["service"] == "auth"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ],
)
def test_a_wrong_setting_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        TraceSettings(_env_file=None)
