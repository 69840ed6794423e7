"""The HTTP routes: a run's stream as Server-Sent Events, its state, and the wish to cancel it."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast

from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.decorators import decorator_from_middleware
from django.views.decorators.csrf import csrf_exempt

from . import cursor as cursors
from . import sse
from .access import Access, admit, admit_cancel, admit_follower, state_or_none
from .conf import streambridge_settings
from .exceptions import BridgeClosed, RunNotFound, StreamBridgeError
from .follow import End, Gap, Heartbeat, Item
from .refusals import RETRY_AFTER, Refusal
from .registry import get_bridge
from .runs import RunState
from .streaming import event_stream_response
from .streams import OpenStream

View = Callable[[HttpRequest, str], Coroutine[Any, Any, HttpResponseBase]]


def _route(method: str) -> Callable[[View], View]:
    """Answer other methods by 405, and every refusal by JSON with a code and a sentence."""

    def decorate(view: View) -> View:
        # The project's own check answers with a page, so the views are exempt from it.
        checked = _csrf_protect(view) if method == "POST" else view

        # Tokens are for those who are not logged in, and the others get JSON as well: no
        # LoginRequiredMiddleware sends them to a page.
        @login_not_required
        @csrf_exempt
        @functools.wraps(view)
        async def answer(request: HttpRequest, run_id: str) -> HttpResponseBase:
            try:
                if request.method != method:
                    raise Refusal(405, "method_not_allowed", f"Use {method} here.")
                return await checked(request, run_id)
            except StreamBridgeError as error:
                refusal = Refusal.of(error)
            except Refusal as error:
                refusal = error
            except (SuspiciousOperation, MultiPartParserError):
                refusal = Refusal(400, "bad_request", "The parameters or the body can't be read.")
            response = JsonResponse(
                {"code": refusal.code, "message": refusal.message}, status=refusal.status
            )
            if refusal.status == 401:
                response["WWW-Authenticate"] = 'Bearer realm="runs"'
            elif refusal.status == 405:
                response["Allow"] = method
            elif refusal.status in {429, 503}:
                response["Retry-After"] = str(RETRY_AFTER)
            return _unstored(response)

        return answer

    return decorate


class _CsrfMiddleware(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        raise Refusal(403, "csrf_failed", reason)


# The stubs know no asynchronous views here.
_csrf_protect = cast(Callable[[View], View], decorator_from_middleware(_CsrfMiddleware))


@_route("GET")
async def stream(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """
    Stream a run as Server-Sent Events, from the start or after ``Last-Event-ID``.

    A client that has heard of the end comes back with the end's cursor and gets 204, which makes
    an EventSource stop (https://html.spec.whatwg.org/multipage/server-sent-events.html, section
    9.2.3).
    """
    cursor = cursors.parse_header(request.META.get("HTTP_LAST_EVENT_ID"))
    if cursor is None:
        cursor = cursors.parse(cursors.parameter(request.GET.get))
    run = await admit_follower(await _access(request, run_id), cursor)
    if run is not None and cursors.is_end(cursor, run):
        return _unstored(HttpResponse(status=204))
    cursor, position = cursors.start(cursor, run)
    items = get_bridge().follow(
        run_id,
        last_event_id=cursor,
        heartbeat_interval=streambridge_settings.HEARTBEAT_INTERVAL,
        epoch=run.epoch if run else None,
    )
    return event_stream_response(_frames(OpenStream(), items, position), request=request)


@_route("GET")
async def detail(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """Show the state of a run as JSON."""
    run = await admit(await _access(request, run_id))
    if run is None:
        raise RunNotFound(run_id)
    return _unstored(JsonResponse(_public(run)))


@_route("POST")
async def cancel(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """Ask the producer of a run to stop."""
    await admit_cancel(await _access(request, run_id))
    await get_bridge().request_cancel(run_id)
    return JsonResponse({"run_id": run_id, "cancel_requested": True}, status=202)


async def _frames(
    counted: OpenStream, items: AsyncGenerator[Item], position: str | None
) -> AsyncGenerator[bytes]:
    try:
        yield sse.encode_retry(*streambridge_settings.RETRY_MS, position)
        async for item in items:
            if isinstance(item, Heartbeat):
                yield sse.HEARTBEAT
            elif isinstance(item, Gap):
                yield sse.encode_gap(item.data(), item.position)
            elif isinstance(item, End):
                yield sse.encode_end(item.status, item.error, item.position)
            else:
                yield item[0].sse() if len(item) == 1 else b"".join([batch.sse() for batch in item])
            del item  # an idle stream must not hold on to the last page that it sent
    except BridgeClosed:
        return  # the client comes back, elsewhere
    finally:
        counted.close()
        await items.aclose()


async def _access(request: HttpRequest, run_id: str) -> Access:
    user = await request.auser() if hasattr(request, "auser") else AnonymousUser()
    return Access(
        user=user,
        run_id=run_id,
        run=await state_or_none(run_id),
        token=_token(request),
        scope=getattr(request, "scope", {}),
    )


def _token(request: HttpRequest) -> str | None:
    """Return the run token, from the address or, for clients that send headers, RFC 6750's."""
    scheme, _, credentials = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else None
    return request.GET.get("token", bearer)


def _unstored(response: HttpResponse) -> HttpResponse:
    """Keep caches from answering for us: what was true of a run may not be any more."""
    response["Cache-Control"] = "no-store"
    return response


def _public(run: RunState) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": run.status,
        "head": run.head,
        "earliest": run.earliest,
        "last_event_id": run.latest_id,
        "created_at": run.created_at,
        "ended_at": run.ended_at,
        "cancel_requested": run.cancel_requested,
        "error": run.error,
        "metadata": run.metadata,
    }
