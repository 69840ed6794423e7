"""What data may be besides what JSON knows, and what is said of all the rest."""

import collections
import dataclasses
import datetime
import enum
import fractions
import json
import math
import types
import uuid
from decimal import Decimal
from typing import Any

import numpy
import orjson
import pydantic
import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.functional import SimpleLazyObject
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from streambridge_app.contract.payload import encode_data
from streambridge_app.contract.plain_data import MAX_DEPTH
from streambridge_app.exceptions import InvalidEvent

NAN = float("nan")


class Colour(enum.Enum):
    RED = "red"
    WHEN = datetime.date(2026, 1, 2)


class Size(enum.StrEnum):
    LARGE = "large"


class Level(enum.IntEnum):
    HIGH = 3


class Ratio(float, enum.Enum):
    HALF = 0.5


@dataclasses.dataclass
class Page:
    number: int
    made: datetime.date
    colour: Colour = Colour.RED
    next: Any = None


class Item(pydantic.BaseModel):
    name: str
    price: Decimal
    tags: set[str] = set()
    score: float = 0
    more: Any = None


class Text(str):
    def __str__(self) -> str:
        return "something else"


class Number(int):
    def __repr__(self) -> str:
        return "something else"


Pair = collections.namedtuple("Pair", "a b")

ZONE = datetime.timezone(datetime.timedelta(hours=2))
OF_DJANGO = {
    "datetime": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901),
    "datetime, aware": datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, ZONE),
    "datetime, UTC": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    "date": datetime.date(2026, 1, 2),
    "time": datetime.time(3, 4, 5, 678901),
    "timedelta": datetime.timedelta(days=-1, seconds=3, microseconds=5),
    "Decimal": Decimal("1.10"),
    "Decimal, infinite": Decimal("Infinity"),
    "UUID": uuid.UUID(int=7),
    "lazy text": gettext_lazy("run"),
}


@pytest.mark.parametrize("case", OF_DJANGO)
def test_what_django_encodes_is_as_django_encodes_it(case):
    value = OF_DJANGO[case]
    expected = json.loads(json.dumps(value, cls=DjangoJSONEncoder))
    assert json.loads(encode_data(value, 1000)) == expected
    assert json.loads(encode_data({"a": [value]}, 1000)) == {"a": [expected]}


OTHERS = {
    "enum": (Colour.RED, "red"),
    "enum of something else": (Colour.WHEN, "2026-01-02"),
    "enum of text": (Size.LARGE, "large"),
    "enum of whole numbers": (Level.HIGH, 3),
    "enum of numbers": (Ratio.HALF, 0.5),
    "dataclass": (
        Page(1, datetime.date(2026, 1, 2), next=Page(2, datetime.date(2026, 1, 3))),
        {
            "number": 1,
            "made": "2026-01-02",
            "colour": "red",
            "next": {"number": 2, "made": "2026-01-03", "colour": "red", "next": None},
        },
    ),
    "pydantic": (
        Item(name="a", price=Decimal("1.10"), tags={"x"}),
        {"name": "a", "price": "1.10", "tags": ["x"], "score": 0.0, "more": None},
    ),
    "text of a class": (Text("text"), "text"),
    "safe text": (mark_safe("<b>"), "<b>"),
    "number of a class": (Number(7), 7),
    "numpy's whole number": (numpy.int64(7), 7),
    "numpy's float": (numpy.float64(0.1), 0.1),
    "numpy's short float": (numpy.float32(0.5), 0.5),
    "numpy's bool": (numpy.bool_(True), True),
    "numpy's text": (numpy.str_("a"), "a"),
    "numpy's array": (numpy.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "named tuple": (Pair(1, datetime.date(2026, 1, 2)), [1, "2026-01-02"]),
    "ordered dict": (collections.OrderedDict(b=1, a=Level.HIGH), {"b": 1, "a": 3}),
    "default dict": (collections.defaultdict(list, a=[Level.HIGH]), {"a": [3]}),
    "counter": (collections.Counter("aab"), {"a": 2, "b": 1}),
    "mapping proxy": (types.MappingProxyType({"a": 1}), {"a": 1}),
    "chain map": (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
    "user dict": (collections.UserDict(a=1), {"a": 1}),
    "keys that are no text": (
        {2: 1, 2.5: 2, None: 3, False: 4},
        {"2": 1, "2.5": 2, "null": 3, "false": 4},
    ),
    "keys that are text": ({Size.LARGE: 1, Text("x"): 2}, {"large": 1, "x": 2}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_people_have_is_as_they_expect(case):
    value, expected = OTHERS[case]
    assert json.loads(encode_data({"list": [value]}, 1000)) == {"list": [expected]}
    assert json.loads(encode_data(value, 1000)) == expected


def test_the_order_of_keys_is_kept():
    assert encode_data({"b": Level.HIGH, "a": 1, 0: 2}, 1000) == '{"b":3,"a":1,"0":2}'


def circle(turn):
    value = {}
    value["inner"] = [turn(value)]
    return value


def deep(levels, innermost=None):
    value = innermost
    for _ in range(levels):
        value = [value]
    return value


class Looping:
    """Turns into itself."""

    def model_dump(self, mode):
        return self


class Nested:
    """Turns into something with itself in it."""

    def model_dump(self, mode):
        return {"again": Nested(), "and": Nested()}


class Same:
    def model_dump(self, mode):
        return {"again": [self]}


class Broken:
    def model_dump(self, mode):
        raise OSError("the model is broken")


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


class Unreadable:
    def model_dump(self, mode):
        raise Unprintable


class Slots:
    __slots__ = ("a",)


@dataclasses.dataclass(slots=True)
class Unset:
    a: int = dataclasses.field(init=False)


class Growing(dict):
    """Changes while it is read."""

    def items(self):
        for key in dict.keys(self):
            self[f"{key}{key}"] = 1
            yield key, 1


def generator():
    yield 1


self_containing = Page(1, datetime.date(2026, 1, 2))
self_containing.next = self_containing

REFUSED = {
    "set": ({"rows": [0, 1, 2, {"when": {1}}]}, '["rows"][3]["when"] is a set', "sorted(…)"),
    "bytes": ([b"x"], "[0] is a bytes", "Decode it"),
    "bytearray": (bytearray(b"x"), " is a bytearray", "Decode it"),
    "memoryview": (memoryview(b"x"), " is a memoryview", "Decode it"),
    "generator": ({"a": generator()}, '["a"] is a generator', "list(…)"),
    "iterator": ({"a": iter([1])}, '["a"] is a list_iterator', "list(…)"),
    "range": ({"a": range(3)}, '["a"] is a range', "list(…)"),
    "deque": (collections.deque([1]), " is a collections.deque", "list(…)"),
    "object": ({"a": object()}, '["a"] is a object', "ENCODER"),
    "class": ([Page], "[0] is a type", "an instance"),
    "class of pydantic": ([Item], "[0] is a pydantic", "an instance"),
    "model of Django": ({"user": User(pk=1)}, '["user"] is a django', "its pk"),
    "queryset": ({"users": User.objects.all()}, '["users"] is a django', "list("),
    "lazy object": ({"user": SimpleLazyObject(lambda: User(pk=1))}, '["user"] is a', "its pk"),
    "fraction": ([fractions.Fraction(1, 3)], "[0] is a fractions.Fraction", "ENCODER"),
    "complex": ([1j], "[0] is a complex", "ENCODER"),
    "fragment": ([orjson.Fragment(b"1")], "[0] is a orjson.Fragment", "ENCODER"),
    "aware time": ([datetime.time(1, tzinfo=ZONE)], "[0] is a datetime.time", "timezone-aware"),
    "numpy's complex": ([numpy.complex128(1)], "[0] is a complex", "ENCODER"),
    "numpy's date": ([numpy.datetime64("2026-01-02", "ns")], "[0] is a numpy.datetime64", "text"),
    "NaN": ({"a": [1, NAN]}, '["a"][1] is nan', "Give None"),
    "infinity": ((1, -math.inf), "[1] is -inf", "Give None"),
    "NaN of numpy": ({"a": numpy.float64("nan")}, '["a"] is nan', "Give None"),
    "NaN in an array": ({"a": numpy.array([1, NAN])}, '["a"][1] is nan', "Give None"),
    "NaN beside an enum": ([Level.HIGH, NAN], "[1] is nan", "Give None"),
    "NaN in pydantic": ([Item(name="a", price=1, score=NAN)], '[0]["score"] is nan', "Give"),
    "NaN as key": ({NAN: 1}, " has the key nan", "str(key)"),
    "tuple as key": ({"a": {(1, 2): 3}}, '["a"] has the key (1, 2), a tuple', "list of pairs"),
    "enum as key": ({Colour.RED: 1}, " has the key <Colour.RED", "str(key)"),
    "date as key": ({datetime.date(2026, 1, 2): 1}, " has the key datetime.date", "str(key)"),
    "the same key twice": ({1: "a", "1": "b"}, " has the keys 1 and '1'", "would be lost"),
    "True and its text": ({"a": {True: 1, "true": 2}}, '["a"] has the keys True', "lost"),
    "1 and 1.0 as text": ({1.5: 1, "1.5": 2}, " has the keys 1.5 and '1.5'", "lost"),
    "query": (QueryDict("a=1&a=2"), " is a django.http.request.QueryDict", "lists()"),
    "several values": ({"q": MultiValueDict({"a": [1, 2]})}, '["q"] is a django', "lists()"),
    "circle": (circle(lambda value: value), '["inner"][0] contains itself', "circular"),
    "circle of enums": (
        circle(lambda value: [Level.HIGH, value]),
        '["inner"][0][1] contains',
        "circular",
    ),
    "circle of dataclasses": ({"page": self_containing}, '["page"]["next"] contains', "circular"),
    "circle of models": ([Same()], '[0]["again"][0] contains itself', "circular"),
    "endless models": (Nested(), '["again"]["again"]', "more than 500 levels"),
    "a model of itself": ([Looping()], "[0] is a tests.unit.test_plain_data.Looping", "each time"),
    "a broken model": ({"a": Broken()}, '["a"] is a tests', "OSError: the model is broken"),
    "an unreadable one": ({"a": Unreadable()}, '["a"] is a tests', "Unprintable"),
    "fields that are unset": ({"a": Unset()}, '["a"] is a tests', "AttributeError"),
    "a dict that grows": ({"a": Growing(b=1)}, '["a"] is a tests', "changed size"),
    "too deep": (deep(MAX_DEPTH + 1), "[0][0][0][0][0][0]…[0]", "more than 500 levels"),
    "much too deep": (deep(100_000), "[0][0][0][0][0][0]…[0]", "more than 500 levels"),
    "too many digits": ({"a": [10**5000]}, '["a"][0] is a int', "digits"),
    "too many digits in a key": ({"b": {10**5000: 1}}, '["b"] is a dict', "digits"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["data", "metadata"])
def test_what_cannot_be_expressed_is_refused_with_its_place(case, name):
    data, place, advice = REFUSED[case]
    with pytest.raises(InvalidEvent) as caught:
        encode_data(data, 1_000_000, name)
    message = str(caught.value)
    assert message.startswith(f"The {name} can't be expressed as JSON: {name}{place}")
    assert advice in message
    assert len(message) < 600


def test_unknown_values_are_not_printed():
    """The text of a queryset is a query, and of many an object a secret."""

    class Secret:
        def __repr__(self):
            raise AssertionError

    with pytest.raises(InvalidEvent, match="Secret"):
        encode_data({"a": [Secret()]}, 1000)


def test_long_and_odd_keys_are_shown_in_short():
    with pytest.raises(InvalidEvent) as caught:
        encode_data({"x" * 10_000: {"a\n\ud800": {"ü": {1}}}}, 100_000)
    assert f'data["{"x" * 39}…"]["a\\n\\ud800"]["ü"] is a set' in str(caught.value)


@pytest.mark.parametrize("inner", [1, Level.HIGH])
def test_what_is_too_large_is_refused_before_it_is_copied(inner):
    value = inner
    for _ in range(40):
        value = [value, value]  # a trillion values
    with pytest.raises(InvalidEvent, match=r"more than 10000 values, and .*MAX_EVENT_BYTES"):
        encode_data(value, 10_000)


def test_the_same_object_may_be_in_several_places():
    page = Page(1, datetime.date(2026, 1, 2))
    shared = [Level.HIGH]
    assert json.loads(encode_data({"a": [page, page], "b": [shared, shared]}, 1000)) == {
        "a": 2 * [{"number": 1, "made": "2026-01-02", "colour": "red", "next": None}],
        "b": [[3], [3]],
    }


def test_data_is_not_changed():
    inner = [Level.HIGH]
    data = {"a": inner, 1: (2,)}
    encode_data(data, 1000)
    assert data == {"a": [Level.HIGH], 1: (2,)}
    assert data["a"] is inner
    assert inner[0] is Level.HIGH


def test_an_interrupt_is_not_taken_for_bad_data():
    class Interrupted:
        def model_dump(self, mode):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_data(Interrupted(), 1000)


# The setting ENCODER


def encode(value):
    """Know sets and fractions, and answer badly to some others."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, fractions.Fraction):
        return {"over": value.denominator, "on": Decimal(value.numerator)}
    if isinstance(value, complex):
        return value
    if isinstance(value, bytes):
        raise OSError("no bytes today")
    raise TypeError


@pytest.fixture
def encoder(settings):
    settings.STREAMBRIDGE = {"ENCODER": f"{__name__}.encode"}


@pytest.mark.usefixtures("encoder")
def test_the_encoder_is_asked_for_what_nothing_else_knows():
    data = {"a": {2, 1}, "b": [fractions.Fraction(1, 3)], "c": datetime.date(2026, 1, 2)}
    assert json.loads(encode_data(data, 1000)) == {
        "a": [1, 2],
        "b": [{"over": 3, "on": "1"}],
        "c": "2026-01-02",
    }


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (object(), "is a object. Give text"),
        (1j, "is a complex that is turned into another complex each time"),
        (b"", "is a bytes that can't be read: OSError: no bytes today"),
    ],
)
def test_what_the_encoder_does_not_know_is_refused(value, complaint):
    with pytest.raises(InvalidEvent) as caught:
        encode_data({"a": [value]}, 1000)
    assert f'data["a"][0] {complaint}' in str(caught.value)


def test_an_encoder_that_cannot_be_imported_is_a_mistake_in_the_settings(settings):
    settings.STREAMBRIDGE = {"ENCODER": "nonesuch.encode"}
    assert encode_data(datetime.date(2026, 1, 2), 1000) == '"2026-01-02"'
    with pytest.raises(ImproperlyConfigured, match="ENCODER"):
        encode_data({1}, 1000)
