"""
Whose request or socket it is, as the project's middleware says.

A project may find its users by a session, a JWT or an impersonation, at once or when somebody
looks. Whoever looks here gets a user that can be asked on the event loop: nothing here may query
the database there, nor leave a thread or a connection with a stream.
"""

from __future__ import annotations

import functools
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import middleware
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils.functional import LazyObject, empty


async def user_of_request(request: HttpRequest) -> Any:
    """
    Return the user whom the project's middleware has found, whichever way it says so.

    ``request.user`` counts, as in other views; it is evaluated on the request's own thread if that
    has yet to be done. An ``auser()`` that is not Django's counts where it says more: Django's own
    does not ask a backend's ``get_user``, by which a project may say that somebody is nobody.
    """
    user = getattr(request, "user", None)
    if user is None or _is_unknown(user):
        auser = getattr(request, "auser", None)
        if auser is not None and (user is None or not _is_djangos_auser(auser)):
            return await auser() or AnonymousUser()
        if _is_nobodys(request, user):
            return AnonymousUser()
    return await known_user(user)


def _is_djangos_auser(auser: object) -> bool:
    return isinstance(auser, functools.partial) and auser.func is middleware.auser


def _is_nobodys(request: HttpRequest, user: object) -> bool:
    """Return whether Django would find nobody: to let it look takes a tenth of a stream's start."""
    return (
        _is_djangos(user)
        and not hasattr(request, "_cached_user")
        and getattr(getattr(request, "session", None), "session_key", "") is None
    )


def _is_unknown(user: Any) -> bool:
    """Return whether a user is lazy and nobody has looked yet; a private part of Django to 6.1."""
    return isinstance(user, LazyObject) and vars(user).get("_wrapped", empty) is empty


def _is_djangos(user: Any) -> bool:
    """Return whether a lazy user is that of Django's middleware; if private parts go, it is not."""
    found = getattr(user, "__dict__", {}).get("_setupfunc")
    return getattr(found, "__module__", None) == middleware.__name__


async def known_user(user: Any) -> Any:
    """Return a user that can be asked without a query: a lazy one is evaluated on a thread."""
    if _is_unknown(user):
        user = await sync_to_async(_evaluated)(user)
    return user or AnonymousUser()


def _evaluated(user: Any) -> Any:
    bool(user)
    return user
