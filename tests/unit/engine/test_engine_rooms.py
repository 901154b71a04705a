"""How much the engine takes on."""

from __future__ import annotations

from sd_worker.engine.rooms import Room, Rooms


def test_a_place_of_unknown_cap_takes_one_sample_and_counts_as_a_full_pass() -> None:
    rooms = Rooms()
    assert rooms.has_room_for(Room("a", 2))
    rooms.enter("one", Room("a", 2))
    assert not rooms.has_room_for(Room("a", 2))
    assert rooms.load == 1.0


def test_a_place_takes_as_many_samples_as_fill_a_pass() -> None:
    rooms = Rooms()
    rooms.enter("one", Room("a", 2))
    rooms.set_cap(Room("a", 2), 2.5)
    assert rooms.has_room_for(Room("a", 2))
    rooms.enter("two", Room("a", 2))
    assert rooms.load == 4 / 5
    assert not rooms.has_room_for(Room("a", 2))
    assert rooms.has_room_for(Room("a", 1))


def test_a_sample_that_is_larger_than_a_pass_has_room_alone() -> None:
    rooms = Rooms()
    rooms.set_cap(Room("a", 2), 0.5)
    assert rooms.has_room_for(Room("a", 2))
    rooms.enter("one", Room("a", 2))
    assert rooms.is_full


def test_two_full_places_are_all_that_is_taken_on() -> None:
    rooms = Rooms()
    rooms.enter("one", Room("a", 2))
    assert not rooms.is_full
    rooms.enter("two", Room("b", 2))
    assert rooms.is_full
    rooms.leave("one")
    assert not rooms.is_full


def test_who_leaves_makes_room() -> None:
    rooms = Rooms()
    rooms.set_cap(Room("a", 2), 1)
    rooms.enter("one", Room("a", 2))
    assert not rooms.has_room_for(Room("a", 1))
    rooms.leave("one")
    assert rooms.has_room_for(Room("a", 2))
    assert rooms.load == 0


def test_who_leaves_twice_makes_room_once() -> None:
    rooms = Rooms()
    rooms.set_cap(Room("a", 2), 2)
    rooms.enter("one", Room("a", 2))
    rooms.enter("two", Room("a", 2))
    rooms.leave("one")
    rooms.leave("one")
    assert rooms.load == 0.5
