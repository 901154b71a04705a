"""What services in this process log, as `structlog.testing.capture_logs` keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from support.waiting import until


async def until_logged(lines: Sequence[Mapping[str, object]], event: str, **fields: object) -> None:
    """Return when there is a line of this event with these fields."""
    wanted = {"event": event, **fields}
    await until(lambda: any(wanted.items() <= line.items() for line in lines))
