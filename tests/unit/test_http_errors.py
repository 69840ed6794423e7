"""What each error means to a client."""

import pytest

from streambridge_app import exceptions
from streambridge_app.access import NOT_FOUND
from streambridge_app.exceptions import StreamBridgeError
from streambridge_app.serve.http_errors import refusal_of


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (exceptions.InvalidCursor("why"), 400, "invalid_cursor", "why"),
        (exceptions.InvalidRunId("why"), 400, "invalid_run_id", "why"),
        (exceptions.RunNotFound("'secret' is missing"), 404, "not_found", NOT_FOUND),
        (exceptions.RunEnded("why"), 409, "run_ended", "why"),
        (
            exceptions.LogOutdated("no such table: secret"),
            500,
            "log_outdated",
            "The server's log is not set up for this version.",
        ),
        (
            exceptions.LogUnavailable("host db7 refused"),
            503,
            "log_unavailable",
            "The log can't be reached right now. Try again.",
        ),
        (
            exceptions.BridgeClosed("why"),
            503,
            "shutting_down",
            "This server is shutting down. Connect again.",
        ),
    ],
)
def test_refusal_of_an_error(
    error: StreamBridgeError, status: int, code: str, message: str
) -> None:
    refusal = refusal_of(error)
    assert (refusal.status, refusal.code, refusal.message) == (status, code, message)
    assert str(refusal) == message


def test_kind_of_a_known_error_is_known() -> None:
    class NoSuchRunInRedis(exceptions.RunNotFound):
        """What a backend of somebody else's may raise."""

    assert refusal_of(NoSuchRunInRedis("why")).status == 404


@pytest.mark.parametrize(
    "kind", [exceptions.InvalidEvent, exceptions.RunExists, exceptions.InsideTransaction]
)
def test_error_of_no_clients_making_goes_on_up(kind: type[StreamBridgeError]) -> None:
    error = kind("a fault of the server's")
    with pytest.raises(kind) as raised:
        refusal_of(error)
    assert raised.value is error
