"""The routes of StreamBridge as a project serves them, on the database of the test run.

`/` says how many streams are open in this process; a WebSocket to `/close/CODE` is closed with that
code. RUNS_STREAMBRIDGE is STREAMBRIDGE as JSON.
"""

import json
import os
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

settings.ALLOWED_HOSTS = ["127.0.0.1"]
settings.ROOT_URLCONF = __name__
settings.STREAMBRIDGE = json.loads(os.environ.get("RUNS_STREAMBRIDGE", "{}"))
django_application = get_asgi_application()

from streambridge_app.asgi import flow_control  # noqa: E402
from streambridge_app.asgi.open_streams import open_streams  # noqa: E402
from streambridge_app.routing import websocket_urlpatterns  # noqa: E402


async def report(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"open_streams": open_streams()})


async def close(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": scope["url_route"]["kwargs"]["code"]})


urlpatterns = [path("", report), path("", include("streambridge_app.urls"))]

application = flow_control(
    ProtocolTypeRouter(
        {
            "http": django_application,
            "websocket": AllowedHostsOriginValidator(
                AuthMiddlewareStack(
                    URLRouter([*websocket_urlpatterns, path("close/<int:code>", close)])
                )
            ),
        }
    )
)
