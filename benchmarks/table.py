"""Print a table in Markdown, and hold it to its goals."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def check_goals(rows: Sequence[Sequence[str]]) -> None:
    """End the process with an error where a row's second column is above its third, a goal such as `≤ 50 ms`."""
    missed = [
        f"{what}: {measured}, goal {goal}"
        for what, measured, goal in rows
        if goal.startswith("≤") and float(measured.split()[0]) > float(goal.split()[1])
    ]
    if missed:
        sys.exit("\n".join(["Missed:", *missed]))
