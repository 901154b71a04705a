"""monitoring/alerts.yml as the Prometheus operator takes it: `python tools/prometheus_rule.py`.

With `--runbooks URL`, the alerts link to the page with the runbooks at that address from now on.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ALERTS = Path(__file__).parents[1] / "monitoring" / "alerts.yml"
#: The value of the label by which kube-prometheus-stack finds what is for its Prometheus: the name it was installed by.
RELEASE = "kube-prometheus-stack"


def with_runbooks(alerts: str, url: str) -> str:
    """The text of the alerts with the runbooks at `url`. Raises `ValueError` where that is no address of a page."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or re.search(r"[\s\"']", url):
        raise ValueError(f"'{url}' is not the address of a page, such as https://git.example.org/docs/operations.md")
    return re.sub(r"(?<= runbook_url: )[^#\s]+(?=#)", lambda _: url, alerts)


def prometheus_rule(alerts: str) -> str:
    """The manifest of a PrometheusRule."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "stable-diffusion-api", "labels": {"release": RELEASE}},
        "spec": yaml.safe_load(alerts),
    }
    return "# Made of monitoring/alerts.yml by `make prometheus-rule`.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description="Print monitoring/alerts.yml as a PrometheusRule.")
    parser.add_argument(
        "--runbooks", metavar="URL", help="put this address of docs/operations.md into alerts.yml first"
    )
    url = parser.parse_args().runbooks
    if url is not None:
        try:
            ALERTS.write_text(with_runbooks(ALERTS.read_text(), url))
        except ValueError as error:
            parser.error(str(error))
    sys.stdout.write(prometheus_rule(ALERTS.read_text()))


if __name__ == "__main__":
    _main()
