"""Who may follow what, in the demo."""

from streambridge_app import RunState
from streambridge_app.access import Access, Authorizer
from streambridge_app.models import Run


class DemoAuthorizer(Authorizer):
    """Anybody may read and cancel what the demo page started; the default rule has the rest."""

    async def can_read(self, access: Access) -> bool:
        return is_demo(access.run) or await super().can_read(access)

    async def can_cancel(self, access: Access) -> bool:
        return is_demo(access.run) or await super().can_cancel(access)


def is_demo(run: RunState | Run | None) -> bool:
    """Say whether the demo page started this run."""
    return run is not None and run.metadata.get("demo") is True
