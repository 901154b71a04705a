"""From the command to readiness of the embedded service, with a warm disk cache. Goal: under 12 s."""

from __future__ import annotations

import statistics
import time

from stack import embedded_stack
from table import print_table

_ROUNDS = 4


def main() -> None:
    took_s = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        with embedded_stack({}):
            took_s.append(time.perf_counter() - started)
    warm = took_s[1:]
    rows = [
        ["first start", f"{took_s[0]:.1f}"],
        [f"warm start, median of {len(warm)} (goal 12)", f"{statistics.median(warm):.1f}"],
        ["warm start, slowest", f"{max(warm):.1f}"],
    ]
    print_table(["embedded start to readiness", "s"], rows)


if __name__ == "__main__":
    main()
