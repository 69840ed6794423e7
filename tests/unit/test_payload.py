import enum
import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streambridge_app.contract.payload import MAX_ERROR_LENGTH, encode_data, error_data
from streambridge_app.contract.plain_data import MAX_DEPTH
from streambridge_app.exceptions import InvalidEvent

# Data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "null"),
        ({"b": 1, "a": [True, 1.5]}, '{"b":1,"a":[true,1.5]}'),
        ("ü🎉", '"ü🎉"'),
        ("\u0000\n\r\u2028", '"\\u0000\\n\\r\\u2028"'),
        ({"\x85": "a\u2029ü"}, '{"\\u0085":"a\\u2029ü"}'),
        ("\ud800ü", '"\\ud800\\u00fc"'),
        ((1, 2), "[1,2]"),
        ({1: 2}, '{"1":2}'),
        (2**70, "1180591620717411303424"),
    ],
)
def test_data_becomes_one_line_of_json(data, text):
    assert encode_data(data, 1000) == text
    assert text.splitlines() == [text]


class Level(enum.IntEnum):
    HIGH = 3


class Kind(str, enum.Enum):  # noqa: UP042 - a StrEnum prints its value, this does not
    """One whose values are not what its members are as text."""

    TOKEN = "a token"

    def __new__(cls, value):
        member = str.__new__(cls, "token")
        member._value_ = value
        return member


def _scalars():
    numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | st.booleans() | numbers | st.text(st.characters())


@given(st.recursive(_scalars(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_data_comes_back_as_it_was(data):
    text = encode_data(data, math.inf)
    assert json.loads(text) == data
    assert text.splitlines() == [text]


@pytest.mark.parametrize("beside", [1, None, "null", {1: 1}])
def test_enums_that_are_text_or_numbers_are_that(beside):
    data = {Kind.TOKEN: [Level.HIGH, Kind.TOKEN], "beside": beside}
    expected = {"token": [3, "token"], "beside": beside}
    assert json.loads(encode_data(data, 1000)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize("count", [1_000, 200_000])
def test_data_may_have_many_values(count):
    assert encode_data([1] * count, math.inf) == f"[{','.join('1' * count)}]"


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
        *[{1}, b"", object(), {(1,): 1}],
        *[orjson.Fragment(b"[1,\n2]"), [orjson.Fragment(b"1")], {"a": orjson.Fragment(b"1\r")}],
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


@pytest.mark.parametrize("data", [{}, [], {"deep": [{"er": []}]}])
def test_circular_data_is_refused_and_spoils_nothing(data):
    circular = {"x": "x" * 1000}
    circular["self"] = circular
    with pytest.raises(InvalidEvent, match="circular"):
        encode_data([data, circular], 10_000)
    assert encode_data([data, data], 10_000) == json.dumps([data, data], separators=(",", ":"))


# Errors


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
