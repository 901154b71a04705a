"""What becomes of a job that was taken, in the words of logs, figures and traces."""

from __future__ import annotations

from typing import Literal

#: The type of a task's terminal event.
TerminalType = Literal["finished", "aborted"]

#: What became of a job: its task ended here with an event of such a type, `had_ended` before, and so on.
Ending = Literal[TerminalType, "had_ended", "handed_back", "lost", "given_up"]
