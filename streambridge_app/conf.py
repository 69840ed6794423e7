"""
The ``STREAMBRIDGE`` setting: typed, with defaults, read at each use.

Reading late is what makes ``override_settings`` work. ``manage.py check`` reports every wrong
value by the number of its option (see :mod:`streambridge_app.checks`); reading one raises
``ImproperlyConfigured``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

NAME = "STREAMBRIDGE"

T = TypeVar("T")


class Option(Generic[T]):
    """One key of the dict: its default, the rule for its value, and what it is for."""

    def __init__(
        self, default: T, *, number: int, must: str, valid: Callable[[Any], bool], help: str
    ) -> None:
        self.default = default
        self.number = number
        """Part of the check's id, ``streambridge.E<number>``: never reused."""
        self.must = must
        """Completes the sentence "NAME must be …"."""
        self.valid = valid
        self.help = help
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, instance: Settings, owner: type) -> T: ...
    def __get__(self, instance: Settings | None, owner: type) -> Option[T] | T:
        if instance is None:
            return self
        value = given().get(self.name, self.default)
        if not self.valid(value):
            raise ImproperlyConfigured(self.complaint(value))
        return value  # type: ignore[no-any-return]

    def complaint(self, value: object) -> str:
        return f"{NAME}[{self.name!r}] must be {self.must}, not {value!r}."


def given() -> dict[str, Any]:
    """
    Return the dict as the project has set it.

    Raises:
        ImproperlyConfigured: it is not a dict.
    """
    value = getattr(settings, NAME, {})
    if not isinstance(value, dict):
        raise ImproperlyConfigured(f"{NAME} must be a dict, not {value!r}.")
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(lowest: int, *, none: str = "") -> dict[str, Any]:
    return {
        "must": f"a whole number, {lowest} or more" + (f", or None for {none}" if none else ""),
        "valid": lambda value: (
            (value is None and bool(none))
            or (isinstance(value, int) and not isinstance(value, bool) and lowest <= value < 2**63)
        ),
    }


def _seconds(*, none: str = "") -> dict[str, Any]:
    return {
        "must": "a number of seconds above 0" + (f", or None for {none}" if none else ""),
        "valid": lambda value: (
            (value is None and bool(none)) or (_number(value) and 0 < value < float("inf"))
        ),
    }


def _name(what: str) -> dict[str, Any]:
    return {"must": what, "valid": lambda value: isinstance(value, str) and bool(value)}


def _is_delay_range(value: object) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(bound, int) and not isinstance(bound, bool) for bound in value)
        and 0 <= value[0] <= value[1]
    )


class Settings:
    """The options, as attributes."""

    BACKEND = Option(
        "streambridge_app.backends.channel_layer.ChannelLayerBridge",
        number=1,
        **_name("the dotted path of a StreamBridge class"),
        help="Class of the bridge. `streambridge_app.backends.memory.MemoryBridge` keeps all in "
        "one process, for unit tests.",
    )
    DATABASE = Option(
        "default",
        number=2,
        **_name("an alias in DATABASES"),
        help="Database that holds the log.",
    )
    CHANNEL_LAYER = Option(
        "default",
        number=3,
        **_name("an alias in CHANNEL_LAYERS"),
        help="Channel layer that wakes the servers. Without one, they poll.",
    )
    AUTHORIZER = Option(
        "streambridge_app.access.Authorizer",
        number=4,
        **_name("the dotted path of an Authorizer class"),
        help="Class that says who may read and cancel a run.",
    )
    HEARTBEAT_INTERVAL = Option(
        10.0,
        number=5,
        **_seconds(),
        help="Seconds of silence between heartbeats to HTTP and WebSocket clients.",
    )
    POLL_INTERVAL: Option[float | None] = Option(
        None,
        number=6,
        **_seconds(none="0.05 s in one process, 1 s with a layer across processes"),
        help="Seconds between two looks at the log for all followed runs of a process: the "
        "safety net for lost messages.",
    )
    READ_THREADS = Option(
        4,
        number=7,
        **_count(1),
        help="Threads per process, with a database connection each, that read history.",
    )
    PAGE_EVENTS = Option(
        2000, number=8, **_count(1), help="Events read from the log in one query, at most."
    )
    TAIL_EVENTS = Option(
        2048,
        number=9,
        **_count(1),
        help="Newest events of a followed run that a server keeps in memory, at most.",
    )
    TAIL_BYTES = Option(
        1_048_576,
        number=10,
        **_count(1),
        help="The same in bytes of memory, with the frames that are kept for clients; the newest "
        "commit is kept whatever its size.",
    )
    MESSAGE_BYTES = Option(
        131_072,
        number=11,
        **_count(0),
        help="Events up to this size together travel inside the layer's message; larger ones "
        "are read from the log.",
    )
    MAX_EVENT_BYTES = Option(
        1_048_576, number=12, **_count(1), help="Largest data of one event, as UTF-8 JSON."
    )
    PRODUCER_BUFFER = Option(
        2048,
        number=13,
        **_count(1),
        help="Events that a producer handle accepts ahead of their commit, at most.",
    )
    KEEP_SECONDS: Option[float | None] = Option(
        604_800.0,
        number=14,
        **_seconds(none="ever"),
        help="Seconds for which a run is kept after its end, unless it says so itself.",
    )
    SWEEP_INTERVAL = Option(
        30.0,
        number=15,
        **_seconds(),
        help="Seconds between two looks of a server for runs and events to delete.",
    )
    TOKEN_MAX_AGE = Option(
        3600.0, number=16, **_seconds(), help="Seconds for which a run token is good."
    )
    MAX_STREAMS = Option(
        10_000,
        number=17,
        **_count(1),
        help="Open streams per server process, and sockets of many runs; then 429.",
    )
    MAX_RUNS_PER_SOCKET = Option(
        100, number=18, **_count(1), help="Runs that one WebSocket may follow at once."
    )
    RETRY_MS: Option[tuple[int, int]] = Option(
        (500, 2000),
        number=19,
        must="a pair of whole numbers, lowest and highest",
        valid=_is_delay_range,
        help="Bounds in milliseconds of the random delay before a client reconnects.",
    )
    LEASE_SECONDS: Option[float | None] = Option(
        60.0,
        number=20,
        **_seconds(none="no leases"),
        help="Seconds after which the run of a producer handle that died is ended as lost.",
    )
    RETRY_SECONDS = Option(
        10.0,
        number=21,
        **_seconds(),
        help="Seconds for which an append is tried again while the database can't be reached.",
    )
    SHUTDOWN_SECONDS = Option(
        5.0,
        number=22,
        **_seconds(),
        help="Seconds that a server which is told to stop gives its streams to end; what is left "
        "of them then is cut.",
    )
    KEEP_UNOWNED_SECONDS: Option[float | None] = Option(
        None,
        number=23,
        **_seconds(none="as long as KEEP_SECONDS"),
        help="The same as `KEEP_SECONDS` for runs without an owner.",
    )
    MAX_RUN_EVENTS: Option[int | None] = Option(
        None,
        number=24,
        **_count(1, none="no limit"),
        help="Newest events to keep of a new run, unless it says so itself; older ones are "
        "deleted in the background.",
    )
    MAX_RUN_BYTES: Option[int | None] = Option(
        None,
        number=25,
        **_count(1, none="no limit"),
        help="The same in bytes of data; the newest event is kept whatever its size.",
    )
    TUNE_GC = Option(
        False,
        number=26,
        must="True or False",
        valid=lambda value: isinstance(value, bool),
        help="Let garbage collections, which stop all streams of a process, be short and few once "
        "it has a client: what it has loaded is exempted (`gc.freeze`), and Python looks for "
        "young garbage once per 2,000 new objects, as Python 3.13 does. It changes the whole "
        "process, and pays where a server sends hundreds of events a second: "
        "`streambridge_doctor` says how long a full collection takes.",
    )
    ENCODER: Option[str | None] = Option(
        None,
        number=27,
        must="the dotted path of a callable, or None",
        valid=lambda value: value is None or (isinstance(value, str) and bool(value)),
        help="Callable that is given a value of data that nothing else can express, and returns "
        "what to publish in its place; it raises `TypeError` if it can't either.",
    )
    KEEP_SILENT_SECONDS: Option[float | None] = Option(
        2_592_000.0,
        number=28,
        **_seconds(none="ever"),
        help="Seconds without an event after which a run that was never ended is deleted, if a "
        "publish made it, not `create_run` or a handle.",
    )


OPTIONS: dict[str, Option[Any]] = {
    name: option for name, option in vars(Settings).items() if isinstance(option, Option)
}

streambridge_settings = Settings()
