"""Metrics, the dashboard, the alerts and the page for operators: they say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import promql_parser
import pytest
import yaml

from prometheus_rule import prometheus_rule, with_runbooks
from sd_gateway.http.routes import OPERATIONS
from supply_chain.dockerfiles import ROOT
from support.metrics import Declared, declared

GROUPS = declared()
METRICS = [each for group in GROUPS.values() for each in group]
#: What Prometheus itself adds, and the two of every process that the dashboard shows.
LABELS_OF_PROMETHEUS = {"job", "instance", "le"}
OF_PROMETHEUS = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
PAGE = (ROOT / "docs" / "operations.md").read_text()
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
#: Where the page with the runbooks is read; one for all alerts.
RUNBOOKS_URL = RULES[0]["annotations"]["runbook_url"].partition("#")[0]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

#: Units that are not Prometheus' base units, and words for what has no bounds.
WRONG_UNITS = {"ms", "milliseconds", "minutes", "hours", "kb", "mb", "kilobytes", "megabytes", "percent"}
UNBOUNDED = {"user", "username", "session", "task_id", "path", "url", "worker", "model", "prompt", "address"}

by_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def _row(metric: Declared) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |"


@pytest.mark.parametrize("title", GROUPS)
def test_the_page_for_operators_has_a_row_for_every_metric_and_no_other(title: str) -> None:
    section = re.split(r"^#+ ", PAGE.partition(f"\n### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [_row(metric) for metric in GROUPS[title]]


@by_metric
def test_names_follow_the_conventions_of_prometheus(metric: Declared) -> None:
    assert re.fullmatch(r"sd_[a-z][a-z0-9_]*[a-z0-9]", metric.name)
    words = set(metric.name.split("_"))
    assert not words & WRONG_UNITS, "base units: seconds, bytes, ratios"
    assert (metric.type == "counter") is metric.name.endswith("_total")
    assert (metric.type == "histogram") <= metric.name.endswith(("_seconds", "_bytes"))
    assert metric.type in ("counter", "gauge", "histogram")
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_info"))
    assert metric.help.endswith(".")


@by_metric
def test_labels_have_bounds(metric: Declared) -> None:
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in metric.labels)
    assert not set(metric.labels) & (UNBOUNDED | LABELS_OF_PROMETHEUS)


def test_no_name_is_used_twice() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))


def _nodes(query: str) -> Iterator[Any]:
    """All nodes of a parsed query. Raises where it is no PromQL."""
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(query.replace("$__rate_interval", "5m")), pre_visit=nodes.append)
    return iter(nodes)


def _check_query(query: str) -> None:
    """Every series is one that we show, or Prometheus does, and so is every label."""
    labels_of = {series: set(metric.labels) for metric in METRICS for series in metric.series}
    types = {series: metric.type for metric in METRICS for series in metric.series}
    used: set[str] = set()
    for node in _nodes(query):
        match node:
            case promql_parser.VectorSelector():
                assert node.name in labels_of.keys() | OF_PROMETHEUS, f"no service shows {node.name}"
                known = labels_of.get(node.name, set()) | LABELS_OF_PROMETHEUS
                used |= known
                assert {matcher.name for matcher in node.matchers.matchers} <= known
            case promql_parser.Call() if node.func.name in ("rate", "increase"):
                [matrix] = node.args
                name = matrix.vector_selector.name
                assert types.get(name, "counter") != "gauge", f"{name} may fall"
    for node in _nodes(query):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= used


@by_rule
def test_alerts_ask_for_what_is_shown(rule: dict[str, Any]) -> None:
    _check_query(rule["expr"])


@pytest.mark.parametrize(
    ("title", "query"), [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
)
def test_panels_ask_for_what_is_shown(title: str, query: str) -> None:
    _check_query(query)


def _matchers(query: str, metric: str) -> list[dict[str, tuple[str, str]]]:
    """Of each selector of a metric: by label, the operator and the value."""
    return [
        {matcher.name: (str(matcher.op).rpartition(".")[2], matcher.value) for matcher in node.matchers.matchers}
        for node in _nodes(query)
        if isinstance(node, promql_parser.VectorSelector) and node.name == metric
    ]


def test_shares_of_errors_leave_out_probes() -> None:
    """They come often and are answered with 200 while requests fail, or with 503 where nobody else is refused."""
    queries = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
    shares = [query for query in queries if "sd_http_requests_total{" in query and "status" in query]
    assert len(shares) == 2
    for query in shares:
        selectors = _matchers(query, "sd_http_requests_total")
        assert [each["route"] for each in selectors] == [("NotRe", "/healthz|/readyz")] * 2
    assert {"/healthz", "/readyz"} <= {operation.path for operation in OPERATIONS}


def test_an_alert_sees_each_instance_of_every_service() -> None:
    jobs = {
        each["job_name"]
        for each in yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    }
    [rule] = [rule for rule in RULES if rule["alert"] == "InstanceGone"]
    [matchers] = _matchers(rule["expr"], "up")
    assert set(matchers["job"][1].split("|")) == jobs


def test_every_metric_is_on_the_dashboard() -> None:
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    asked = set(re.findall(r"\bsd_\w+", queries))
    not_shown = {metric.name for metric in METRICS if not metric.series & asked}
    assert not_shown == {"sd_models"}, "its bytes are shown"


def test_legends_name_labels_that_the_query_leaves() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            groups = [
                set(node.modifier.labels)
                for node in _nodes(target["expr"])
                if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
            ]
            left = groups[0] if groups else LABELS_OF_PROMETHEUS
            assert wanted <= left, (panel["title"], target["expr"])


def test_panels_have_places_and_names_of_their_own() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    datasources = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert datasources == {"${datasource}"}


@by_rule
def test_alerts_say_how_bad_they_are_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS_URL}#{rule['alert'].lower()}"


def test_runbooks_are_linked_by_an_address_that_works_anywhere() -> None:
    """Notifications are read where no path in a repository means anything."""
    parts = urlsplit(RUNBOOKS_URL)
    assert parts.scheme == "https"
    assert parts.hostname
    assert parts.path.endswith("/docs/operations.md")


def test_the_address_of_the_runbooks_is_the_operators() -> None:
    alerts = (ROOT / "monitoring" / "alerts.yml").read_text()
    url = "https://wiki.example.org/view?page=sd"
    manifest = prometheus_rule(with_runbooks(alerts, url))
    assert re.findall(r"runbook_url: (\S+)", manifest) == [f"{url}#{rule['alert'].lower()}" for rule in RULES]
    assert manifest.replace(url, RUNBOOKS_URL) == prometheus_rule(alerts), "nothing else is changed"
    assert with_runbooks(with_runbooks(alerts, url), RUNBOOKS_URL) == alerts


@pytest.mark.parametrize(
    "url", ["docs/operations.md", "ftp://a.example/b", "https://", "https://a.example/#b", "https://a b"]
)
def test_what_is_no_address_of_runbooks_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a page"):
        with_runbooks("", url)


@by_rule
def test_summaries_name_labels_that_the_query_leaves(rule: dict[str, Any]) -> None:
    wanted = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    groups = re.findall(r"by \(([^)]*)\)", rule["expr"])
    left = set(re.split(r", *", groups[0])) if groups else (LABELS_OF_PROMETHEUS if "(" not in rule["expr"] else set())
    assert wanted <= left


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    section = PAGE.partition("\n## Runbooks\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_the_checks_of_queries_see_what_is_wrong() -> None:
    for query in (
        "sum(sd_unknown)",
        'sd_workers{kind="x"}',
        "sum by (user) (sd_workers)",
        "rate(sd_workers[5m])",
    ):
        with pytest.raises(AssertionError):
            _check_query(query)
    with pytest.raises(ValueError, match=r".+"):
        _check_query("sum(sd_workers")
