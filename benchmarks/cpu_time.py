"""The CPU time of a process, by two looks at it."""

from __future__ import annotations

import psutil


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)
