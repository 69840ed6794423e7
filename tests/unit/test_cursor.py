import pytest

from streambridge_app.cursor import NOW, START, After, Position, Verdict, accept, parse, resolve
from streambridge_app.exceptions import InvalidCursor
from streambridge_app.runs import RUNNING, RunHead

RUN = RunHead(key=1, epoch=500, head=10, floor=4, status=RUNNING)
UNTRIMMED = RUN._replace(floor=0)


@pytest.mark.parametrize("text", [None, "", "-1"])
def test_parse_start(text):
    assert parse(text) is START


def test_parse_now():
    assert parse("now") is NOW


@pytest.mark.parametrize(
    ("text", "cursor"),
    [("1-2", After(1, 2)), ("0-0", After(0, 0)), ("007-08", After(7, 8)), ("9" * 19 + "-1", None)],
)
def test_parse_event_id(text, cursor):
    assert parse(text) == (cursor or After(int("9" * 19), 1))


def test_a_cursor_prints_as_the_id_it_means():
    assert str(parse("500-10")) == "500-10"


@pytest.mark.parametrize(
    "text",
    [
        *("0", "1-", "-2", "1-2-3", "1--2", "a-1", " 1-2", "1-2\n", "+1-2", "1.0-2", "NOW"),
        *("1" * 20 + "-1", "1-" + "1" * 20, "x" * 1000, "\u0661-\u0662", 5, b"1-2", ["now"]),
    ],
)
def test_parse_refuses_anything_else_and_shows_it(text):
    with pytest.raises(InvalidCursor, match="is not a cursor") as caught:
        parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("cursor", "run", "position"),
    [
        (START, UNTRIMMED, Position(0, gap=False)),
        (START, RUN, Position(4, gap=True)),
        (START, RUN._replace(head=0, floor=0), Position(0, gap=False)),
        (NOW, RUN, Position(10, gap=False)),
        (After(500, 0), UNTRIMMED, Position(0, gap=False)),
        (After(500, 3), RUN, Position(4, gap=True)),
        (After(500, 4), RUN, Position(4, gap=False)),
        (After(500, 7), RUN, Position(7, gap=False)),
        (After(500, 10), RUN, Position(10, gap=False)),
        (After(500, 11), RUN, Position(4, gap=True)),
        (After(499, 7), RUN, Position(4, gap=True)),
        (After(501, 7), RUN, Position(4, gap=True)),
        (After(499, 0), UNTRIMMED, Position(0, gap=True)),
    ],
)
def test_resolve(cursor, run, position):
    assert resolve(cursor, run) == position


@pytest.mark.parametrize(
    ("have", "first", "last", "verdict"),
    [
        (0, 1, 1, Verdict.DELIVER),
        (3, 4, 9, Verdict.DELIVER),
        (3, 2, 4, Verdict.DELIVER),
        (3, 3, 3, Verdict.DUPLICATE),
        (3, 1, 2, Verdict.DUPLICATE),
        (3, 4, 3, Verdict.DUPLICATE),  # empty
        (3, 5, 9, Verdict.GAP),
    ],
)
def test_accept(have, first, last, verdict):
    assert accept(have, first, last) is verdict
