"""The routes of StreamBridge in a project whose settings do all that settings do to views.

OUTSIDE is JSON: settings of its own by their names, beside `ATOMIC` (aliases with ATOMIC_REQUESTS)
and `FIRST` and `LAST` (middleware around the usual one). The routes are at the root, below a
captured part with an extra argument, and below a language.
"""

import json
import os
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.conf.urls.i18n import i18n_patterns
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import include, path

given: dict[str, Any] = json.loads(os.environ.get("OUTSIDE", "{}"))
for alias in given.pop("ATOMIC", []):
    settings.DATABASES[alias]["ATOMIC_REQUESTS"] = True
settings.MIDDLEWARE = [*given.pop("FIRST", []), *settings.MIDDLEWARE, *given.pop("LAST", [])]
settings.ALLOWED_HOSTS = ["127.0.0.1"]
settings.ROOT_URLCONF = __name__
for name, value in given.items():
    setattr(settings, name, value)

# Both, whichever is served: the project has both files.
django_application = get_asgi_application()
wsgi_application = get_wsgi_application()

from streambridge_app.asgi import flow_control  # noqa: E402
from streambridge_app.asgi.open_streams import open_streams  # noqa: E402
from streambridge_app.routing import checked_origin, websocket_urlpatterns  # noqa: E402


@transaction.non_atomic_requests(using="postgres")
@transaction.non_atomic_requests(using="default")
async def report(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"open_streams": open_streams()})


def page(request: HttpRequest, slug: str) -> JsonResponse:
    return JsonResponse({"page": slug})


ours: Any = include("streambridge_app.urls")
urlpatterns = [
    path("", report),
    path("", ours),
    path("tenants/<slug:tenant>/", ours, {"x": 1}),
    *i18n_patterns(path("", ours), path("pages/<path:slug>", page)),
]
sockets: Any = URLRouter(websocket_urlpatterns)
application = flow_control(
    ProtocolTypeRouter(
        {
            "http": django_application,
            "websocket": checked_origin(
                AuthMiddlewareStack(
                    URLRouter([path("tenants/<slug:tenant>/", sockets), path("", sockets)])
                )
            ),
        }
    )
)
