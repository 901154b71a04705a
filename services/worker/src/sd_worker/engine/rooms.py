"""How much the engine has taken on, in forward passes: what may begin, and what a worker may still pull.

Samples that share their passes are in one *place*. A place is full when its samples fill a pass: more of them would
only make each other wait for steps. Two full places take turns; more would make everybody wait for theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass

_MOST_LOAD = 2.0


@dataclass(frozen=True)
class Room:
    """What a sample takes up: rows of its network's passes. Samples of one place share them."""

    place: Hashable
    num_rows: int


class Rooms:
    """The rows that samples take up, by place."""

    def __init__(self) -> None:
        self._inside: dict[Hashable, Room] = {}
        self._rows: Counter[Hashable] = Counter()
        self._caps: dict[Hashable, float] = {}
        self.last_share = 1.0

    @property
    def load(self) -> float:
        """Full passes that a step of all samples takes."""
        return sum(self.share_of(Room(place, num_rows)) for place, num_rows in self._rows.items())

    @property
    def is_full(self) -> bool:
        return self.load >= _MOST_LOAD

    def share_of(self, room: Room) -> float:
        """The part of a pass that it takes; all of it, while the cap of its place is not known."""
        return room.num_rows / self._caps.get(room.place, room.num_rows)

    def has_room_for(self, room: Room) -> bool:
        taken = self._rows[room.place]
        return taken == 0 or taken + room.num_rows <= self._caps.get(room.place, 0)

    def enter(self, sample: Hashable, room: Room) -> None:
        """A sample has begun."""
        self._inside[sample] = room
        self._rows[room.place] += room.num_rows
        self.last_share = self.share_of(room)

    def leave(self, sample: Hashable) -> None:
        """A sample needs no more passes of its network. One that has left already is let pass."""
        room = self._inside.pop(sample, None)
        if room is None:
            return
        self._rows[room.place] -= room.num_rows
        if not self._rows[room.place]:
            del self._rows[room.place]

    def set_cap(self, room: Room, num_samples: float) -> None:
        """A pass of its place takes so many samples like that of `room`."""
        self._caps[room.place] = num_samples * room.num_rows
        self.last_share = self.share_of(room)
