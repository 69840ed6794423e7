"""The HTTP routes: a run's stream as Server-Sent Events, its state, and the wish to cancel it."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, cast

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.http.multipartparser import MultiPartParserError
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.decorators import decorator_from_middleware
from django.views.decorators.csrf import csrf_exempt

from ..access import (
    Access,
    Refusal,
    admit,
    admit_cancel,
    admit_follower,
    bearer_token,
    run_token,
    state_or_none,
)
from ..asgi import OpenStream
from ..conf import streambridge_settings
from ..contract import End, Gap, Heartbeat, Item, RunState
from ..contract import cursor as cursors
from ..exceptions import BridgeClosed, StreamBridgeError, run_not_found
from ..registry import get_bridge
from . import sse
from .event_stream import event_stream_response
from .http_errors import RETRY_AFTER, refusal_of
from .users import user_of_request

View = Callable[[HttpRequest, str], Coroutine[Any, Any, HttpResponseBase]]


class _EveryDatabase(set[str]):
    """
    The aliases for which a view opts out of ``ATOMIC_REQUESTS``: all, those to come too.

    Django asks for each alias with that setting whether it is in here, and refuses to call an
    asynchronous view for one that is not. A set, for ``transaction.non_atomic_requests`` adds.
    """

    def __contains__(self, alias: object) -> bool:
        return True


def _route(*methods: str) -> Callable[[View], View]:
    """Answer other methods by 405, and every refusal by JSON with a code and a sentence."""

    def decorate(view: View) -> View:
        # The project's own check answers with a page, so the views are exempt from it.
        checked = _csrf_protect(view) if "POST" in methods else view

        # Tokens are for those who are not logged in, and the others get JSON as well: no
        # LoginRequiredMiddleware sends them to a page.
        @login_not_required
        @csrf_exempt
        @functools.wraps(view)
        async def answer(request: HttpRequest, /, run_id: str, **_include: Any) -> HttpResponseBase:
            # What else the project's include() captures or gives says nothing about a run.
            try:
                if request.method not in methods:
                    raise Refusal(405, "method_not_allowed", f"Use {methods[0]} here.")
                return await checked(request, run_id)
            except (Refusal, StreamBridgeError) as error:
                refusal = refusal_of(error)
            except (SuspiciousOperation, MultiPartParserError):
                refusal = Refusal(400, "bad_request", "The parameters or the body can't be read.")
            response = JsonResponse(
                {"code": refusal.code, "message": refusal.message}, status=refusal.status
            )
            if refusal.status == 401:
                response["WWW-Authenticate"] = 'Bearer realm="runs"'
            elif refusal.status == 405:
                response["Allow"] = ", ".join(methods)
            elif refusal.status in {429, 503}:
                response["Retry-After"] = str(RETRY_AFTER)
            return _unstored(response)

        answer._non_atomic_requests = _EveryDatabase()  # type: ignore[attr-defined]
        return answer

    return decorate


class _CsrfMiddleware(CsrfViewMiddleware):
    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        raise Refusal(403, "csrf_failed", reason)


# The stubs know no asynchronous views here.
_csrf_protect = cast(Callable[[View], View], decorator_from_middleware(_CsrfMiddleware))


@_route("GET", "HEAD")
async def stream(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """
    Stream a run as Server-Sent Events, from the start or after ``Last-Event-ID``.

    A client that has heard of the end comes back with the end's cursor and gets 204, which makes
    an EventSource stop (https://html.spec.whatwg.org/multipage/server-sent-events.html, section
    9.2.3).
    """
    _check_server(request)
    cursor = cursors.parse_header(request.META.get("HTTP_LAST_EVENT_ID"))
    if cursor is None:
        cursor = cursors.parse(cursors.parameter(request.GET.get))
    run = await admit_follower(await _access(request, run_id), cursor)
    if run is not None and cursors.is_end(cursor, run):
        return _without_content()
    if request.method == "HEAD":
        OpenStream().close()  # whether a GET would find room
        return event_stream_response(_no_frames(), request=request)
    cursor, position = cursors.start(cursor, run)
    items = get_bridge().follow(
        run_id,
        last_event_id=cursor,
        heartbeat_interval=streambridge_settings.HEARTBEAT_INTERVAL,
        epoch=run.epoch if run else None,
    )
    return event_stream_response(_frames(OpenStream(), items, run_id, position), request=request)


@_route("GET", "HEAD")
async def detail(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """Show the state of a run as JSON."""
    run = await admit(await _access(request, run_id))
    if run is None:
        raise run_not_found(run_id)
    return _unstored(JsonResponse(_public(run)))


@_route("POST")
async def cancel(request: HttpRequest, run_id: str) -> HttpResponseBase:
    """Ask the producer of a run to stop."""
    await admit_cancel(await _access(request, run_id))
    await get_bridge().request_cancel(run_id)
    return JsonResponse({"run_id": run_id, "cancel_requested": True}, status=202)


async def _frames(
    counted: OpenStream, items: AsyncGenerator[Item], run_id: str, position: str | None
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
                frames = [batch.encoded(sse.encode_events, run_id) for batch in item]
                yield frames[0] if len(frames) == 1 else b"".join(frames)
                del frames
            del item  # an idle stream must not hold on to the last page that it sent
    except BridgeClosed:
        return  # the client comes back, elsewhere
    finally:
        counted.close()
        await items.aclose()


async def _no_frames() -> AsyncIterator[bytes]:
    """Be the body of a response that has none."""
    return
    yield


def _check_server(request: HttpRequest) -> None:
    """
    Return if the server can stream.

    Under WSGI a stream would hold one of few threads, and arrive as a whole when its run has ended.

    Raises:
        Refusal: it can't. By 501 an EventSource gives up; it would come back after 503.
    """
    if not isinstance(request, ASGIRequest):
        raise Refusal(
            501,
            "needs_asgi",
            "This server speaks WSGI, which can't stream. Serve the project's ASGI application, "
            "by Daphne or Uvicorn; in tests use Django's AsyncClient.",
        )


async def _access(request: HttpRequest, run_id: str) -> Access:
    return Access(
        user=await user_of_request(request),
        run_id=run_id,
        run=await state_or_none(run_id),
        # RFC 6750's way, for clients that send headers.
        token=run_token(
            request.GET.get("token"), bearer_token(request.META.get("HTTP_AUTHORIZATION", ""))
        ),
        scope=getattr(request, "scope", {}),
    )


def _without_content() -> HttpResponse:
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return _unstored(response)


def _unstored(response: HttpResponse) -> HttpResponse:
    """
    Keep caches from answering for us: what was true of a run may not be any more.

    Django's own cache heeds ``no-store`` in new versions only.
    """
    response["Cache-Control"] = "private, no-store"
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
        "silent_seconds": run.silent_seconds,
        "metadata": run.metadata,
    }
