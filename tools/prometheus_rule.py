"""monitoring/alerts.yml as the Prometheus operator takes it: `python tools/prometheus_rule.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

ALERTS = Path(__file__).parents[1] / "monitoring" / "alerts.yml"


def prometheus_rule() -> str:
    """The manifest of a PrometheusRule."""
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "stable-diffusion-api"},
        "spec": yaml.safe_load(ALERTS.read_text()),
    }
    return "# Made of monitoring/alerts.yml by `make prometheus-rule`.\n" + yaml.safe_dump(
        rule, sort_keys=False, width=120
    )


if __name__ == "__main__":
    sys.stdout.write(prometheus_rule())
