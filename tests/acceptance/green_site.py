"""A site of plain, synchronous views that publish: for WSGI servers with green threads."""

import time

from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from streambridge_app import get_sync_bridge
from streambridge_app.conf import streambridge_settings


def by_handle(request: HttpRequest, run_id: str, events: int) -> HttpResponse:
    with get_sync_bridge().producer(run_id) as run:
        for number in range(events):
            run.publish("number", number)
            if number % 10 == 0:
                time.sleep(0.01)
    return HttpResponse("done")


def by_transaction(request: HttpRequest, run_id: str, events: int) -> HttpResponse:
    bridge = get_sync_bridge()
    with transaction.atomic(using=streambridge_settings.DATABASE):
        for number in range(events):
            bridge.publish(run_id, "number", number)
        bridge.publish_end(run_id)
    return HttpResponse("done")


urlpatterns = [
    path("by_handle/<str:run_id>/<int:events>", by_handle),
    path("by_transaction/<str:run_id>/<int:events>", by_transaction),
]
application = get_wsgi_application()
