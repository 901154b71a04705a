"""How much the engine takes on."""

from __future__ import annotations

from sd_worker.engine.rooms import Room, Rooms


def test_a_place_of_unknown_cap_takes_one_sample_and_counts_as_a_full_pass() -> None:
    rooms = Rooms()
    assert rooms.has_room_for(Room("a", 2))
    rooms.enter("one", Room("a", 2))
    assert not rooms.has_room_for(Room("a", 2))
    assert rooms.passes == 1.0


def test_a_place_takes_as_many_samples_as_fill_a_pass() -> None:
    rooms = Rooms()
    rooms.enter("one", Room("a", 2))
    rooms.learn(Room("a", 2), 2, 5)
    assert rooms.has_room_for(Room("a", 2))
    rooms.enter("two", Room("a", 2))
    assert rooms.passes == 4 / 5
    assert not rooms.has_room_for(Room("a", 2))
    assert rooms.has_room_for(Room("a", 1))


def test_a_sample_that_is_larger_than_a_pass_has_room_alone() -> None:
    rooms = Rooms()
    rooms.learn(Room("a", 2), 2, 1)
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
    rooms.learn(Room("a", 2), 2, 2)
    rooms.enter("one", Room("a", 2))
    assert not rooms.has_room_for(Room("a", 1))
    rooms.leave("one")
    assert rooms.has_room_for(Room("a", 2))
    assert rooms.passes == 0


def test_who_leaves_twice_makes_room_once() -> None:
    rooms = Rooms()
    rooms.learn(Room("a", 2), 2, 4)
    rooms.enter("one", Room("a", 2))
    rooms.enter("two", Room("a", 2))
    rooms.leave("one")
    rooms.leave("one")
    assert rooms.passes == 0.5


def test_a_family_that_takes_one_row_with_guidance_has_its_pass_filled_whatever_the_guidance() -> None:
    """Flux: two rows are expected of a sample with guidance."""
    guided, plain = Room("a", 2), Room("a", 1)
    rooms = Rooms()
    rooms.learn(guided, 1, 4)
    for number in range(4):
        assert rooms.has_room_for(guided)
        rooms.enter(number, guided if number % 2 else plain)
        rooms.learn(guided if number % 2 else plain, 1, 4)
        assert rooms.passes == (number + 1) / 4
    assert not rooms.has_room_for(plain)


def test_up_to_a_pass_of_samples_may_be_decoded_while_others_begin() -> None:
    rooms = Rooms()
    rooms.learn(Room("a", 2), 2, 4)
    for sample in ("one", "two"):
        rooms.enter(sample, Room("a", 2))
        rooms.begin_decoding(sample)
    assert rooms.passes == 0
    assert not rooms.is_full
    assert rooms.has_room_for(Room("a", 2))

    rooms.enter("three", Room("a", 2))
    rooms.begin_decoding("three")
    rooms.begin_decoding("three")
    assert rooms.is_full
    assert rooms.passes == 0.5

    rooms.leave("one")
    assert not rooms.is_full


def test_places_that_clients_make_up_do_not_add_up() -> None:
    rooms = Rooms()
    known = Room(("model", 0, 8), 1)
    for side in range(1000):
        rooms.learn(Room(("model", side, 8), 1), 1, 4)
        rooms.learn(Room("in use", 1), 1, 4)
    assert rooms.passes_of(known) == 1.0  # not known any more
    assert rooms.passes_of(Room("in use", 1)) == 0.25
