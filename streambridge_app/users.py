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
from django.utils.functional import LazyObject


async def user_of_request(request: HttpRequest) -> Any:
    """
    Return the user whom the project's middleware has found, whichever way it says so.

    ``request.user`` counts, as in other views; it is evaluated on the request's own thread if that
    has yet to be done. An ``auser()`` that is not Django's counts where it says more.
    """
    user = getattr(request, "user", None)
    auser = getattr(request, "auser", None)
    is_lazy = user is None or isinstance(user, LazyObject)
    if auser is not None and is_lazy and not _is_djangos(auser):
        return await auser()
    return await known_user(user)


def _is_djangos(auser: Any) -> bool:
    return isinstance(auser, functools.partial) and auser.func is middleware.auser


async def known_user(user: Any) -> Any:
    """Return a user that can be asked without a query: a lazy one is evaluated on a thread."""
    if isinstance(user, LazyObject):
        user = await sync_to_async(_evaluated)(user)
    return AnonymousUser() if user is None else user


def _evaluated(user: Any) -> Any:
    """Return what a lazy object stands for; None if that is no user."""
    return user if user else None
