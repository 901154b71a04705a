"""What was told in the last moments."""

from __future__ import annotations

from sd_common.logged_event import LoggedEvent
from sd_common.subjects import TaskRef
from sd_gateway.recent_events import RecentEvents


def _recent(*sessions: str, capacity: int = 100) -> RecentEvents:
    """Events with the sequences 1, 2, …, of these sessions."""
    recent = RecentEvents(capacity)
    for sequence, session in enumerate(sessions, 1):
        recent.add(LoggedEvent(TaskRef("alice", session, "task"), sequence, b"{}"))
    return recent


def _sequences(recent: RecentEvents, session: str, since: int = 0) -> list[int]:
    return [event.sequence for event in recent.of_session("alice", session, since)]


def test_events_are_those_of_the_session_in_order() -> None:
    recent = _recent("a", "b", "a", "a", "b")
    assert _sequences(recent, "a") == [1, 3, 4]
    assert _sequences(recent, "b") == [2, 5]
    assert _sequences(recent, "c") == []
    assert recent.of_session("bob", "a", 0) == []


def test_events_are_those_after_a_sequence() -> None:
    recent = _recent("a", "b", "a", "a")
    assert [_sequences(recent, "a", since) for since in (0, 1, 3, 4, 9)] == [[1, 3, 4], [3, 4], [4], [], []]


def test_the_oldest_are_forgotten() -> None:
    recent = _recent("a", "b", "b", "a", "a", capacity=2)
    assert _sequences(recent, "a") == [4, 5]
    assert _sequences(recent, "b") == []
    assert set(recent._of_session) == {("alice", "a")}


def test_nothing_is_left_once_it_is_cleared() -> None:
    recent = _recent("a", "b")
    recent.clear()
    assert _sequences(recent, "a") == _sequences(recent, "b") == []
