"""
What a message to a run's group says, and how.

A message only wakes: it may be lost, late, doubled or out of order. Small commits travel inside it,
which saves the servers a query.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from ..contract import Batch

MESSAGE_TYPE: Final = "streambridge.events"


class News(NamedTuple):
    """What a message says: how far the log of a run has come, or just that it changed."""

    run_id: str
    epoch: int | None = None
    """None when the run was deleted: whoever follows it must look at the log."""
    head: int = 0
    status: str = ""
    batch: Batch | None = None
    """Its newest events, if they travel with the message."""

    def encode(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "type": MESSAGE_TYPE,
            "run": self.run_id,
            "epoch": self.epoch,
            "head": self.head,
            "status": self.status,
        }
        if self.batch is not None:
            message["first"] = self.batch.first
            message["events"] = self.batch.pack()
        return message

    @classmethod
    def decode(cls, message: dict[str, Any]) -> News:
        """
        Return the news in a message.

        Raises:
            KeyError, TypeError: it isn't one of ours.
        """
        batch = None
        if message.get("events"):
            batch = Batch.unpack(message["epoch"], message["first"], message["events"])
            if batch.last != message["head"] or len(batch.names) != len(batch.data):
                batch = None  # not as we pack: the log has it
        return cls(message["run"], message["epoch"], message["head"], message["status"], batch)
