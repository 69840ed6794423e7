"""
For the tests of projects that stream: a clean bridge for each test, and ways to look at it.

With pytest and pytest-django nothing has to be imported: see
:mod:`streambridge_app.testing.plugin`.
With Django's own runner, put :class:`StreamBridgeTestMixin` before ``TestCase``.

In a ``TestCase``, which commits nothing, the bridge works on the test's own connection, so that
what the test publishes, a view or an eager task is seen by all of them; leases don't expire there
and nothing old is deleted. In a ``TransactionTestCase`` it is the bridge of the settings.
"""

from .bridges import StreamBridgeTestMixin
from .published import Recorder, recorder
from .sse_client import EventStream, ServerSentEvent, SSEClient

__all__ = [
    "EventStream",
    "Recorder",
    "SSEClient",
    "ServerSentEvent",
    "StreamBridgeTestMixin",
    "recorder",
]
