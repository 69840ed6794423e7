"""The last word of each run is said twice, and no other."""

import pytest

from streambridge_app.wake import repeats
from streambridge_app.wake.repeats import Repeats
from tests.services import wait_until


@pytest.fixture
def said():
    return []


def test_the_newest_word_of_each_run_is_repeated_together_with_the_others(said):
    words = Repeats(said.append)
    for number in range(3):
        words.note([("one", f"one {number}"), ("two", f"two {number}")])
    words.note([("three", "three")])
    wait_until(lambda: sum(map(len, said)) == 3, 5, "the words")
    assert said[0][:2] == ["one 2", "two 2"]


def test_a_run_that_goes_on_talking_is_not_repeated(said):
    words = Repeats(said.append)
    words.note([("silent", "silent")])
    number = 0

    def silent_was_repeated():
        nonlocal number
        number += 1
        words.note([("busy", number)])
        return said

    wait_until(silent_was_repeated, 5, "the silent run's word")
    assert said == [["silent"]]


def test_each_word_is_repeated_once(said):
    words = Repeats(said.append)
    for number in range(3):
        words.note([("run", number)])
        wait_until(lambda: len(said) > number, 5, "the word")  # noqa: B023
    assert said == [[0], [1], [2]]
    assert words.take() == []


def test_what_would_be_said_again_can_be_taken(said, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_AFTER", 3600)
    words = Repeats(said.append)
    words.note([("one", 1), ("two", 2)])
    words.note([("one", 3)])
    assert words.take() == [2, 3]
    assert words.take() == []
    assert said == []
