"""The ASGI application: HTTP by Django, WebSocket by StreamBridge."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_asgi_application()

# The apps are ready from here on.
from streambridge_app.asgi import flow_control  # noqa: E402
from streambridge_app.routing import checked_origin, websocket_urlpatterns  # noqa: E402

application = flow_control(
    ProtocolTypeRouter(
        {
            # Serves the static files with DEBUG off as well: a deployment has a web server for it.
            "http": ASGIStaticFilesHandler(django_application),
            "websocket": checked_origin(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
        }
    )
)
