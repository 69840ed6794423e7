"""
The outermost wrapper of a project's ASGI application.

It must never change a message or its order, nor stand between a server and its application.
"""

import weakref
from typing import Any

from . import shutdown
from .daphne import (
    Application,
    Intake,
    Receive,
    Scope,
    Send,
    Valve,
    protocol_behind,
    redact_address,
)
from .open_streams import server_send

_controlled: weakref.WeakSet[Any] = weakref.WeakSet()


def flow_control(application: Application) -> Any:
    """Make ``await send(...)`` wait for slow clients under Daphne, for HTTP and WebSocket.

    Under Daphne it also keeps the tokens of runs out of the access log, which is no logger's, and
    sends the close codes and the large messages that Daphne refuses to send. On every server it
    lets open streams end in an orderly way at SIGTERM and SIGINT (see
    :func:`streambridge_app.asgi.shutdown.install`).
    It has to be the outermost wrapper, so that it meets the server's own ``send``::

        application = flow_control(ProtocolTypeRouter({...}))

    Args:
        application: an ASGI 3 application.

    Returns:
        An ASGI 3 application. On any server but Daphne it hands the server's own callables on.
        Its type is Any, so that it may take the name of the application inside.
    """

    async def controlled(scope: Scope, receive: Receive, send: Send) -> None:
        protocol = protocol_behind(send)
        shutdown.install(drops=protocol is not None)
        if protocol is None:
            server_send.set(send)
            await application(scope, receive, send)
            return
        redact_address(protocol)
        valve = Valve(protocol, send)
        intake = Intake(protocol, receive) if scope["type"] == "websocket" else None
        try:
            await application(scope, intake.receive if intake else receive, valve.send)
        finally:
            valve.detach()
            if intake is not None:
                intake.detach()

    _controlled.add(controlled)
    return controlled


def is_controlled(application: object) -> bool:
    """Return whether an ASGI application is what :func:`flow_control` has returned."""
    return application in _controlled
