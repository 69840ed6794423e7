"""Tokens leave texts and log records, and nothing else does."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from streambridge_app.runtime import redaction
from streambridge_app.runtime.redaction import RedactTokens, redact

SECRET = "WyJydW4iLDE3MV0:1tXyZ-_:s1gn.ature%3D"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("", ""),
        (f"token={SECRET}", "token=***"),
        (f"/runs/a/stream?token={SECRET}", "/runs/a/stream?token=***"),
        (f"/?last_event_id=1-2&token={SECRET}&x=1", "/?last_event_id=1-2&token=***&x=1"),
        (f"/?token={SECRET}&token={SECRET}2#here", "/?token=***&token=***#here"),
        (f'"GET /?token={SECRET} HTTP/1.1" 200', '"GET /?token=*** HTTP/1.1" 200'),
        (f"b'token={SECRET}'", "b'token=***'"),
        (f"/?%74oken={SECRET}&t%6F%6bEn={SECRET}", f"/?%74oken=***&t%6F%6bEn={SECRET}"),
        (f"/?%74%6F%6b%65%6E={SECRET}", "/?%74%6F%6b%65%6E=***"),
        ("/?token=", "/?token="),
        ("/?token", "/?token"),
        ("/?csrf_token=visible&my-token=visible", "/?csrf_token=visible&my-token=visible"),
        ("/runs/token/stream?tokens=visible", "/runs/token/stream?tokens=visible"),
    ],
)
def test_redact(text: str, redacted: str) -> None:
    assert redact(text) == redacted


class Log(logging.Logger):
    """A logger that nobody else has, and what it wrote."""

    def __init__(self) -> None:
        super().__init__("test")
        self.stream = io.StringIO()
        self.addHandler(logging.StreamHandler(self.stream))
        self.addFilter(RedactTokens())

    @property
    def text(self) -> str:
        return self.stream.getvalue().rstrip("\n")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.mark.parametrize(
    ("message", "args", "written"),
    [
        (f"GET /?token={SECRET}", (), "GET /?token=***"),
        ("GET %s %d", (f"/?token={SECRET}", 200), "GET /?token=*** 200"),
        ("GET %(path)s in %(time).1f s", ({"path": f"/?token={SECRET}", "time": 0.25},), None),
        (
            "%d: scope=%s",
            (7, {"query_string": f"x=1&token={SECRET}".encode()}),
            "7: scope={'query_string': b'x=1&token=***'}",
        ),
        ("100% of 7 %s", (), "100% of 7 %s"),
        ("%s", ("100%",), "100%"),
        (ValueError("an error"), (), "an error"),
    ],
)
def test_record_is_written_without_tokens(
    log: Log, message: Any, args: tuple[Any, ...], written: str | None
) -> None:
    log.warning(message, *args)
    assert log.text == (written or "GET /?token=*** in 0.2 s")


def test_arguments_stay_arguments_for_formatters_that_want_them(log: Log) -> None:
    records: list[logging.LogRecord] = []
    log.addFilter(lambda record: records.append(record) or True)
    log.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:9", "GET", f"/?token={SECRET}", "1.1", 200)
    (record,) = records
    assert record.args == ("127.0.0.1:9", "GET", "/?token=***", "1.1", 200)


@pytest.fixture(params=redaction.LOGGERS)
def installed(request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    logger = logging.getLogger(request.param)
    before = list(logger.filters)
    yield logger
    assert logger.filters == before


def test_app_installs_the_filter_once(installed: logging.Logger) -> None:
    redaction.install()
    ours = [kept for kept in installed.filters if isinstance(kept, RedactTokens)]
    assert len(ours) == 1
