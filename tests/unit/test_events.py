import dataclasses
import enum
import uuid

import pytest

from streambridge_app.contract.events import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    StreamEvent,
    check_end_status,
    check_event_name,
    check_key,
    check_run_id,
)
from streambridge_app.exceptions import InvalidEvent, InvalidRunId

# Names


@pytest.mark.parametrize("name", ["a", "a" * 255, "ü🎉", " ", "_a", "a__", "a:b", "\x7f", "\t"])
def test_a_name_may_be_any_line_of_text(name):
    assert check_event_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "a" * 256, "a\nb", "a\r", "\0", "__a", "__", "\ud800", None, 1, b"a"],
        *["a\vb", "\f", "\x1c", "\x1d", "\x1e", "a\x85", "\u2028b", "\u2029"],
    ],
)
def test_a_name_must_fit_a_line_and_be_nobody_elses(name):
    with pytest.raises(InvalidEvent):
        check_event_name(name)


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(InvalidEvent) as caught:
        check_event_name("a" * 100_000)
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidRunId) as caught:
        check_run_id(["a"] * 100_000)
    assert len(str(caught.value)) < 200


# Run ids


@pytest.mark.parametrize(
    "run_id", ["a", "a" * 200, "ü🎉", " ", "a/b", "...", "..a", "stream", "__a__", "\u2028"]
)
def test_a_run_id_may_be_any_printable_text(run_id):
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id", ["", "a" * 201, "\n", "\0", "\x1f", "\x7f", "\x80", "\x9f", "\udc00", None, 1, b"a"]
)
def test_a_run_id_must_be_printable_text(run_id):
    with pytest.raises(InvalidRunId):
        check_run_id(run_id)


@pytest.mark.parametrize("run_id", [".", "..", "/", "a/", "a/stream", "a/b/cancel", "/stream"])
def test_a_run_id_must_have_an_address_of_its_own(run_id):
    with pytest.raises(InvalidRunId, match="address") as caught:
        check_run_id(run_id)
    assert repr(run_id) in str(caught.value)


def test_a_name_is_one_line_to_all_readers():
    refused = set()
    for character in map(chr, range(0xD800)):
        try:
            check_event_name(f"a{character}b")
        except InvalidEvent:
            refused.add(character)
    ends = {one for one in map(chr, range(0xD800)) if len(f"a{one}b".splitlines()) > 1}
    assert refused == ends | {"\0"}


def test_a_uuid_is_a_run_id_by_its_text():
    run_id = check_run_id(uuid.UUID(int=7))
    assert run_id == "00000000-0000-0000-0000-000000000007"
    assert type(run_id) is str


# Keys


@pytest.mark.parametrize("key", ["a", "a" * 255, "ü🎉", " ", "__a", "a/b"])
def test_a_key_may_be_any_printable_text(key):
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "\0", "\x7f", "\x9f", "\udc00", None, 1])
def test_a_key_must_be_printable_text(key):
    with pytest.raises(InvalidEvent, match="key"):
        check_key(key)


# Ends


@pytest.mark.parametrize("status", ["success", "error", "cancelled", "lost"])
def test_a_run_may_end_with(status):
    assert check_end_status(status) == status


@pytest.mark.parametrize("status", ["running", "", "Success", None])
def test_a_run_may_not_end_with(status):
    with pytest.raises(ValueError, match="A run ends with one of"):
        check_end_status(status)


# Items


def test_sentinels_are_themselves_only():
    assert END_SENTINEL is not HEARTBEAT_SENTINEL
    assert (END_SENTINEL.id, END_SENTINEL.event, END_SENTINEL.data) == ("", "__end__", None)
    assert StreamEvent(id="", event="__heartbeat__", data=None) == HEARTBEAT_SENTINEL


def test_an_event_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        END_SENTINEL.id = "1-1"


class Kind(str, enum.Enum):  # noqa: UP042 - a StrEnum prints its value, this does not
    TOKEN = "token"


def test_the_name_of_a_text_enum_is_its_value():
    assert check_event_name(Kind.TOKEN) == "token"
