import dataclasses
import datetime
import enum
import json
import math
import uuid
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambridge_app.events import (
    END_SENTINEL,
    HEARTBEAT_SENTINEL,
    MAX_DEPTH,
    MAX_ERROR_LENGTH,
    StreamEvent,
    check_end_status,
    check_event_name,
    check_key,
    check_run_id,
    encode_data,
    error_data,
)
from streambridge_app.exceptions import InvalidEvent, InvalidRunId

# Names


@pytest.mark.parametrize("name", ["a", "a" * 255, "ü🎉", " ", "_a", "a__", "a:b", "\u2028", "\t"])
def test_a_name_may_be_any_line_of_text(name):
    assert check_event_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a" * 256, "a\nb", "a\r", "\0", "__a", "__", "\ud800", None, 1, b"a"]
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


@pytest.mark.parametrize("run_id", ["a", "a" * 200, "ü🎉", " ", "a/b", "..", "__a__", "\u2028"])
def test_a_run_id_may_be_any_printable_text(run_id):
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id", ["", "a" * 201, "\n", "\0", "\x1f", "\x7f", "\x80", "\x9f", "\udc00", None, 1, b"a"]
)
def test_a_run_id_must_be_printable_text(run_id):
    with pytest.raises(InvalidRunId):
        check_run_id(run_id)


# Keys


@pytest.mark.parametrize("key", ["a", "a" * 255, "ü🎉", " ", "__a", "a/b"])
def test_a_key_may_be_any_printable_text(key):
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "a" * 256, "a\nb", "\0", "\x7f", "\x9f", "\udc00", None, 1])
def test_a_key_must_be_printable_text(key):
    with pytest.raises(InvalidEvent, match="key"):
        check_key(key)


# Data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "null"),
        ({"b": 1, "a": [True, 1.5]}, '{"b":1,"a":[true,1.5]}'),
        ("ü🎉", '"ü🎉"'),
        ("\u0000\n\r\u2028", '"\\u0000\\n\\r\u2028"'),
        ("\ud800ü", '"\\ud800\\u00fc"'),
        ((1, 2), "[1,2]"),
        ({1: 2}, '{"1":2}'),
        (2**70, "1180591620717411303424"),
    ],
)
def test_data_becomes_one_line_of_json(data, text):
    assert encode_data(data, 1000) == text
    assert "\n" not in text


class Kind(str, enum.Enum):  # noqa: UP042 - a StrEnum prints its value, this does not
    TOKEN = "token"


class Colour(enum.Enum):
    RED = "red"
    NOTHING = None
    NOT_A_NUMBER = float("nan")


def _scalars():
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | st.booleans() | numbers | st.text(st.characters())


@given(st.recursive(_scalars(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_data_comes_back_as_it_was(data):
    text = encode_data(data, math.inf)
    assert json.loads(text) == data
    assert "\n" not in text
    assert "\r" not in text


@pytest.mark.parametrize("beside", [1, None, "null", {1: 1}])
def test_uuids_are_text_and_enum_members_their_values(beside):
    data = [uuid.UUID(int=1), Colour.RED, Colour.NOTHING, Kind.TOKEN, beside]
    expected = [str(uuid.UUID(int=1)), "red", None, "token", beside]
    assert json.loads(encode_data(data, 1000)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("levels", [200, 300, MAX_DEPTH])
def test_data_may_be_deep(levels):
    data = None
    for _ in range(levels):
        data = [data]
    assert json.loads(encode_data(data, math.inf)) == data


@pytest.mark.parametrize(
    "data",
    [
        *[float("nan"), [float("inf")], {"a": -float("inf")}, (None, [{"a": float("nan")}])],
        *[{1}, b"", object(), {(1,): 1}, Colour.NOT_A_NUMBER, datetime.date(2026, 1, 1)],
        *[Decimal(1), StreamEvent("1-1", "a", 1), orjson.Fragment(b"[1,\n2]")],
    ],
)
def test_what_json_cannot_express_is_refused(data):
    with pytest.raises(InvalidEvent, match="can't be expressed as JSON"):
        encode_data(data, 1000)


@pytest.mark.parametrize(
    ("data", "size"), [("x" * 8, 10), ("ü" * 4, 10), ("\ud800", 8), (1234, 4), ([], 2)]
)
def test_the_limit_is_in_bytes_of_utf_8(data, size):
    assert json.loads(encode_data(data, size)) == data
    with pytest.raises(InvalidEvent, match=f"takes {size} bytes"):
        encode_data(data, size - 1)


# Errors and ends


def test_an_error_is_its_type_and_message():
    assert error_data(KeyError("a")) == {"error": "KeyError", "message": "'a'"}
    assert error_data("a text") == {"error": "Error", "message": "a text"}


def test_a_long_message_is_cut():
    message = error_data(ValueError("x" * 10 * MAX_ERROR_LENGTH))["message"]
    assert len(message) == MAX_ERROR_LENGTH
    assert message.endswith("x…")


def test_an_error_that_cannot_be_printed_is_named():
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError

    data = error_data(Unprintable())
    assert data["error"] == "Unprintable"
    assert "can't be printed" in data["message"]


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


def test_the_name_of_a_text_enum_is_its_value():
    assert check_event_name(Kind.TOKEN) == "token"


@pytest.mark.parametrize("data", [{}, [], {"deep": [{"er": []}]}])
def test_circular_data_is_refused_and_spoils_nothing(data):
    circular = {"x": "x" * 1000}
    circular["self"] = circular
    with pytest.raises(InvalidEvent, match="Circular"):
        encode_data([data, circular], 10_000)
    assert encode_data([data, data], 10_000) == json.dumps([data, data], separators=(",", ":"))
