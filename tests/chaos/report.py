"""The figures of a run, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from chaos.parts import PartKind
from chaos.run import Outcome


def print_outcome(outcome: Outcome) -> None:
    """A table of figures, and one of disturbances."""
    findings, load = outcome.findings, outcome.load
    seconds = findings.seconds_to_end()
    rows = [
        ("tasks asked for", str(len(load.asked))),
        ("accepted (their id was told)", str(len(findings.accepted))),
        ("finished", str(findings.num_ended("finished"))),
        ("aborted", str(findings.num_ended("aborted"))),
        ("lost", str(findings.num_lost)),
        ("doubled", str(findings.num_doubled)),
        ("to the terminal event, p50 / p99", f"{_quantile(seconds, 0.5)} / {_quantile(seconds, 0.99)}"),
        (
            f"takeover after SIGKILL of a worker, p50 / most of {len(outcome.takeovers_s)}",
            f"{_quantile(outcome.takeovers_s, 0.5)} / {_quantile(outcome.takeovers_s, 1)}",
        ),
        ("gateway: memory at start / at most", _memory(outcome, "gateway")),
        ("nats-server: memory at start / at most", _memory(outcome, "nats-server")),
        ("events told to websocket clients", str(outcome.num_events_told)),
        ("HTTP requests / broken or refused", f"{load.client.num_requests} / {len(load.client.unanswered)}"),
    ]
    _print_table(("figure", "value"), rows)
    done = Counter((entry.disturbance.kind, entry.disturbance.deed) for entry in outcome.happened)
    _print_table(
        ("disturbance", "times"), [(f"{kind} {deed}", str(times)) for (kind, deed), times in sorted(done.items())]
    )


def print_broken_promises(sentences: Iterable[str]) -> None:
    """One a line."""
    for sentence in sentences:
        print(f"BROKEN PROMISE: {sentence}")


def _quantile(sorted_seconds: Sequence[float], share: float) -> str:
    if not sorted_seconds:
        return "-"
    return f"{sorted_seconds[min(int(share * len(sorted_seconds)), len(sorted_seconds) - 1)]:.2f} s"


def _memory(outcome: Outcome, kind: PartKind) -> str:
    growth = outcome.memory.worst(kind)
    return "-" if growth is None else f"{growth.at_start / 1e6:.0f} / {growth.at_most / 1e6:.0f} MB"


def _print_table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(2)]
    print()
    for row in (head, ("-" * widths[0], "-" * widths[1]), *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
