"""
Who may read and cancel a run. Nobody may, unless a rule here says so.

A refusal never tells whether a run exists: for those who may not read it, it doesn't.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.core import signing
from django.utils.module_loading import import_string

from .conf import streambridge_settings
from .contract import RunId, RunState, check_run_id
from .contract import cursor as cursors
from .exceptions import RunNotFound, run_not_found
from .registry import get_bridge

NOT_FOUND: Final = "There is no such run, or it is not yours to see."

_SALT: Final = "streambridge_app.access.run_token"


class Refusal(Exception):
    """A request that is not granted."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; a WebSocket is closed with 4000 more."""
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """What an authorizer decides about."""

    user: Any
    """The user of the request or scope; an ``AnonymousUser`` when nobody is logged in."""
    run_id: str
    run: RunState | None
    """The run's state; None when there is no such run (yet)."""
    token: str | None = dataclasses.field(default=None, repr=False)
    """What came as ``?token=`` or bearer; a token of the project's own, perhaps."""
    scope: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    """The ASGI scope of the request or socket; empty under WSGI."""


class Authorizer:
    """
    The default rule.

    A run may be read by its owner, by staff with the permission to view runs, and by the
    bearer of a token for it; cancelled by its owner and by staff who may change runs. Name a
    subclass in ``STREAMBRIDGE["AUTHORIZER"]`` to replace the rule.
    """

    async def can_read(self, access: Access) -> bool:
        """Return whether the run's state and events may be read."""
        if access.token is not None and token_admits(access.token, access.run_id):
            return True
        return self.is_owner(access) or await self.has_permission(access, "view_run")

    async def can_cancel(self, access: Access) -> bool:
        """Return whether the run's producer may be asked to stop."""
        return self.is_owner(access) or await self.has_permission(access, "change_run")

    def is_owner(self, access: Access) -> bool:
        """Return whether the user is logged in, active, and owns the run."""
        user = access.user
        return (
            access.run is not None
            and access.run.owner_id is not None
            and user.is_authenticated
            and getattr(user, "is_active", True)
            # A user that comes from a JWT may have its key as text.
            and str(user.pk) == str(access.run.owner_id)
        )

    async def has_permission(self, access: Access, codename: str) -> bool:
        """Return whether the user is active staff with a permission on runs."""
        user = access.user
        # A user model need not know staff, nor one that comes from a JWT permissions.
        if not (
            user.is_authenticated
            and getattr(user, "is_active", True)
            and getattr(user, "is_staff", False)
        ):
            return False
        permission = f"streambridge_app.{codename}"
        # Not ahas_perm: Django's own knows nothing of an overridden has_perm, nor of backends that
        # have no such method. Only staff come this far.
        return hasattr(user, "has_perm") and bool(await sync_to_async(user.has_perm)(permission))


def authorizer() -> Authorizer:
    """Return an instance of the class that ``STREAMBRIDGE["AUTHORIZER"]`` names."""
    made: Authorizer = import_string(streambridge_settings.AUTHORIZER)()
    return made


def make_run_token(run_id: RunId, *, max_age: float | None = None) -> str:
    """
    Return a signed token whose bearer may read a run: for ``?token=`` of an EventSource.

    It can't be taken back before it expires; it opens one run, for reading only.

    Args:
        run_id: the run; it need not exist yet.
        max_age: seconds for which it is good; ``STREAMBRIDGE["TOKEN_MAX_AGE"]`` if None.

    Raises:
        InvalidRunId: the id can't name a run.
    """
    age = streambridge_settings.TOKEN_MAX_AGE if max_age is None else max_age
    return signing.dumps([check_run_id(run_id), time.time() + age], salt=_SALT)


def token_admits(token: str, run_id: str) -> bool:
    """Return whether a token is one of ours, for this run, and has not expired."""
    try:
        admitted, expires = signing.loads(token, salt=_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        return False
    return bool(admitted == run_id and time.time() < expires)


def run_token(*given: str | None) -> str | None:
    """Return the first text that has the form of our tokens; else the first there is."""
    found = [text for text in given if text is not None]
    return next(filter(is_run_token, found), found[0] if found else None)


def bearer_token(authorization: str) -> str | None:
    """Return the token of an ``Authorization`` header (RFC 6750), if it has one."""
    scheme, _, credentials = authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def is_run_token(text: str) -> bool:
    """Return whether a text looks like what ``signing`` makes; a JWT has no colon."""
    return text.count(":") == 2


async def state_or_none(run_id: str) -> RunState | None:
    """Return the state of a run, or None if there is no such run."""
    try:
        return await get_bridge().get_run(run_id)
    except RunNotFound:
        return None


async def admit(access: Access) -> RunState | None:
    """
    Return the state of a run that may be read; None if there is no such run (yet).

    Raises:
        Refusal: it may not be read.
    """
    if await authorizer().can_read(access):
        return access.run
    if access.user.is_authenticated:
        raise Refusal(404, "not_found", NOT_FOUND)
    if access.token is not None and is_run_token(access.token):
        raise Refusal(401, "invalid_token", "The token is not good for this run, or has expired.")
    raise Refusal(401, "not_authenticated", "Log in, or give a token for this run.")


async def admit_follower(access: Access, cursor: cursors.Cursor) -> RunState | None:
    """
    Return the state of a run that may be followed from a cursor; None if it has yet to come.

    Raises:
        Refusal: it may not be read.
        RunNotFound: the cursor says that there was such a run; it has been deleted since.
    """
    run = await admit(access)
    if run is None and isinstance(cursor, cursors.After):
        raise run_not_found(access.run_id)
    return run


async def admit_cancel(access: Access) -> None:
    """
    Return if the run's producer may be asked to stop.

    Raises:
        Refusal: the run may not be read, or not be cancelled.
    """
    await admit(access)
    if not await authorizer().can_cancel(access):
        raise Refusal(403, "forbidden", "You may follow this run, but not cancel it.")
