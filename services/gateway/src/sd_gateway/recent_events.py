"""The events that were told in the last moments, by session.

For websockets that read the log up to its end: any replica of the stream answers them, and one that lags does not show
yet what the feed has told already. Kept by session, since thousands of websockets may come back together.
"""

from __future__ import annotations

from collections import defaultdict, deque

from sd_common.logged_event import LoggedEvent


class RecentEvents:
    """The newest `capacity` events, in the order of the stream."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._all: deque[LoggedEvent] = deque()
        self._of_session: defaultdict[tuple[str, str], deque[LoggedEvent]] = defaultdict(deque)

    def add(self, event: LoggedEvent) -> None:
        """Remember `event`, and forget the oldest where there are too many."""
        self._all.append(event)
        self._of_session[_session_of(event)].append(event)
        if len(self._all) > self._capacity:
            session = _session_of(self._all.popleft())
            self._of_session[session].popleft()
            if not self._of_session[session]:
                del self._of_session[session]

    def of_session(self, user: str, session: str, since: int) -> list[LoggedEvent]:
        """Those of the session with a sequence greater than `since`."""
        return [event for event in self._of_session.get((user, session), ()) if event.sequence > since]

    def clear(self) -> None:
        """Forget all."""
        self._all.clear()
        self._of_session.clear()


def _session_of(event: LoggedEvent) -> tuple[str, str]:
    return event.ref.user, event.ref.session
