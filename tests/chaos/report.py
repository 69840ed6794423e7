"""The report of a chaos run: what was injected and survived, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Report:
    """What happened. Times are in seconds."""

    seed: int
    seconds: float
    """As asked for."""
    length: float
    """From the start of the first process to the end of the checks."""
    faults: dict[str, dict[str, float]]
    """By kind: how often, and how long until the last client that lost its stream had another."""
    totals: dict[str, Any]
    violations: list[str]

    def json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def table(self) -> str:
        """Return Markdown."""
        faults = _table(
            ("fault", "times", "slowest reconnection"),
            {
                kind: (f"{numbers['times']:.0f}", f"{numbers['slowest']:.1f} s")
                for kind, numbers in self.faults.items()
            },
        )
        totals = _table(
            ("seen", "number"), {name: (_written(value),) for name, value in self.totals.items()}
        )
        return f"{faults}\n\n{totals}"


def _table(head: tuple[str, ...], rows: Mapping[str, tuple[str, ...]]) -> str:
    lines = [head, ("---", *["---:"] * (len(head) - 1))]
    lines += [(name, *cells) for name, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f} s"
