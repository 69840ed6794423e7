"""Times as a reader wants them."""

from __future__ import annotations

from statistics import median


def shown(seconds: float) -> str:
    """Return a time in milliseconds, in seconds from one second on."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


def median_and_worst(seconds: list[float]) -> str:
    """Return the median and the longest of some times."""
    return f"median {shown(median(seconds))}, worst {shown(max(seconds))}"
