"""The sweeper as a Celery task, under the name by which ``autodiscover_tasks()`` finds it."""

from __future__ import annotations

from celery import shared_task

from .backends.channel_layer import ChannelLayerBridge
from .log import committing, guarded, sweep_alone
from .registry import get_bridge


@shared_task(name="streambridge.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """
    Make one pass of the sweeper, for Celery beat: see ``streambridge_prune``.

    Raises:
        LogUnavailable: the log can't be reached; the next pass does what is left.
    """
    bridge = get_bridge()
    if isinstance(bridge, ChannelLayerBridge):  # another keeps nothing in the database
        steps = sweep_alone(bridge.using, bridge.committed)
        with committing(bridge.using):
            while guarded(bridge.using, next, steps, None) is not None:
                pass
