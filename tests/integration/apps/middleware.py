"""Middleware as projects have it: old, or with a user of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware
from django.utils.functional import SimpleLazyObject


class SyncOnly:
    """Middleware from before asynchronous views, which looks at the view and its arguments."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> None:
        assert view.__name__
        assert not args


def plain_user(get_response: Any) -> Any:
    """Set `request.user` to the user whom `X-User` names."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.user = _named(request)  # type: ignore[assignment]
        response: HttpResponseBase = get_response(request)
        return response

    return middleware


def lazy_user(get_response: Any) -> Any:
    """Do so when somebody looks, by a query then."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.user = SimpleLazyObject(lambda: _named(request))  # type: ignore[assignment]
        response: HttpResponseBase = get_response(request)
        return response

    return middleware


def lazy_nobody(get_response: Any) -> Any:
    """Find out when somebody looks that there is no user."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.user = SimpleLazyObject(lambda: None)  # type: ignore[assignment]
        response: HttpResponseBase = get_response(request)
        return response

    return middleware


@async_only_middleware
def async_user(get_response: Any) -> Any:
    """Set `request.auser` only, as asynchronous middleware may."""

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        async def auser() -> Any:
            return await sync_to_async(_named)(request)

        request.auser = auser  # type: ignore[method-assign]
        response: HttpResponseBase = await get_response(request)
        return response

    return middleware


def stateless_user(get_response: Any) -> Any:
    """Set `request.user` to what a JWT says, which no database has been asked about."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        request.user = StatelessUser(str(_named(request).pk))  # type: ignore[assignment]
        response: HttpResponseBase = get_response(request)
        return response

    return middleware


class StatelessUser:
    """A user with its key as text, which knows permissions by the synchronous method only."""

    is_authenticated = True
    is_staff = True

    def __init__(self, pk: str) -> None:
        self.pk = pk

    def has_perm(self, permission: str) -> bool:
        return False


def _named(request: HttpRequest) -> Any:
    from django.contrib.auth.models import AnonymousUser, User

    name = request.headers.get("X-User")
    return User.objects.get(username=name) if name else AnonymousUser()
