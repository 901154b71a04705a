"""What tests know of events by themselves."""

from __future__ import annotations

#: Types of the events that end a task.
TERMINAL_TYPES = ("finished", "aborted")
