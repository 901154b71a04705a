"""How much the engine has taken on, in forward passes: what may begin, and what a worker may still pull.

Samples that share their passes are in one *place*. A place is full when its samples fill a pass: more of them would
only make each other wait for steps. Two full places take turns; more would make everybody wait for theirs.

A sample that has but its pixels to come leaves its place, so that passes stay full while others are decoded. Where
decoding is slower than denoising such samples would pile up: nobody begins while there is more than a pass of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

_MOST_DENOISING = 2.0
_MOST_DECODING = 1.0
#: Clients choose the size of their pictures, and so the place.
_MOST_PLACES = 256


@dataclass(frozen=True)
class Room:
    """What a sample takes up: rows of its network's passes. Samples of one place share them.

    `num_rows` is what most families take; what it turns out to be is learned (`Rooms.learn`).
    """

    place: Hashable
    num_rows: int


@dataclass
class _FullPass:
    """How many rows a pass of a place has, and a sample there: learned, by what was expected of it."""

    num_rows: int
    learned_num_rows: dict[int, int] = field(default_factory=dict)


#: Samples by what they take up. What one takes of a pass is multiplied by their number: added up one by one it would be
#: rounded, and a full pass not be full.
_Samples = dict[Room, set[Hashable]]


class Rooms:
    """The rows that samples take up, by place."""

    def __init__(self) -> None:
        self._denoising: _Samples = {}
        self._decoding: _Samples = {}
        self._full_passes: OrderedDict[Hashable, _FullPass] = OrderedDict()
        #: What the last sample takes that has begun, or of which was learned.
        self.passes_of_last = 1.0
        #: How often somebody has made room for others.
        self.num_departures = 0

    @property
    def passes(self) -> float:
        """Full passes that a step of all samples takes. Of those that are decoded, what is more than a pass counts: as
        here, others may come in their place."""
        return self._passes(self._denoising) + max(0.0, self._passes(self._decoding) - _MOST_DECODING)

    @property
    def is_full(self) -> bool:
        return self._passes(self._denoising) >= _MOST_DENOISING or self._passes(self._decoding) > _MOST_DECODING

    def passes_of(self, room: Room) -> float:
        """What a sample takes, mostly a part of one; a whole one, while it is not known how full its place's are."""
        full = self._full_passes.get(room.place)
        return 1.0 if full is None else self._num_rows(room) / full.num_rows

    def has_room_for(self, room: Room) -> bool:
        inside = self._denoising.items()
        taken = sum(self._num_rows(other) * len(samples) for other, samples in inside if other.place == room.place)
        full = self._full_passes.get(room.place)
        return taken == 0 or (full is not None and taken + self._num_rows(room) <= full.num_rows)

    def enter(self, sample: Hashable, room: Room) -> None:
        """A sample has begun."""
        _put(sample, room, self._denoising)
        self.passes_of_last = self.passes_of(room)

    def begin_decoding(self, sample: Hashable) -> None:
        """A sample needs no more passes of its network. One that does not any more is let pass."""
        self.num_departures += 1
        room = _take(sample, self._denoising)
        if room is not None:
            _put(sample, room, self._decoding)

    def leave(self, sample: Hashable) -> None:
        """A sample has ended."""
        self.num_departures += 1
        _take(sample, self._denoising)
        _take(sample, self._decoding)

    def learn(self, room: Room, num_rows: int, full_num_rows: int) -> None:
        """A sample like that of `room` has `num_rows` in a pass, which should have up to `full_num_rows`."""
        full = self._full_passes.setdefault(room.place, _FullPass(full_num_rows))
        full.num_rows, full.learned_num_rows[room.num_rows] = full_num_rows, num_rows
        self._full_passes.move_to_end(room.place)
        while len(self._full_passes) > _MOST_PLACES:
            self._full_passes.popitem(last=False)
        self.passes_of_last = self.passes_of(room)

    def _passes(self, inside: _Samples) -> float:
        return sum(self.passes_of(room) * len(samples) for room, samples in inside.items())

    def _num_rows(self, room: Room) -> int:
        full = self._full_passes.get(room.place)
        return room.num_rows if full is None else full.learned_num_rows.get(room.num_rows, room.num_rows)


def _put(sample: Hashable, room: Room, inside: _Samples) -> None:
    inside.setdefault(room, set()).add(sample)


def _take(sample: Hashable, inside: _Samples) -> Room | None:
    room = next((room for room, samples in inside.items() if sample in samples), None)
    if room is not None:
        inside[room].remove(sample)
        if not inside[room]:
            del inside[room]
    return room
