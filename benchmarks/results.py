"""What a benchmark found: values by case and system, and the ratios that it must reach."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any, Literal

DIRECTORY = Path(__file__).resolve().parent / "results"


class Results:
    """
    The values of one question; printed while it runs, and kept as JSON.

    Values are compared by their medians, so that a slow moment of the machine decides nothing;
    all systems of a case are measured in turns, so that a slow minute meets all of them.
    """

    def __init__(self, question: str) -> None:
        self.question = question
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self._ratios: list[dict[str, Any]] = []
        self._notes: list[str] = []

    def add(self, case: str, system: str, value: float, unit: str) -> None:
        """Keep one value of a system in a case."""
        self._values.setdefault((case, system, unit), []).append(value)
        print(f"  {case} | {system}: {format_number(value)} {unit}", flush=True)

    def median(self, case: str, system: str, unit: str) -> float:
        return statistics.median(self._values[case, system, unit])

    def ratio(
        self,
        name: str,
        unit: str,
        ours: tuple[str, str],
        other: tuple[str, str],
        bound: tuple[Literal[">=", "<="], float] | None = None,
    ) -> None:
        """
        Compare two medians; without a figure of one of them, as of a peer that failed, say so.

        Args:
            name: what is compared, for people.
            unit: of both values.
            ours: case and system above the line.
            other: case and system below it.
            bound: what the ratio must reach.
        """
        value = None
        if (*ours, unit) in self._values and (*other, unit) in self._values:
            value = self.median(*ours, unit) / self.median(*other, unit)
        self._ratios.append({"name": name, "value": value, **_judged(value, bound)})

    def limit(
        self, name: str, unit: str, of: tuple[str, str], bound: tuple[Literal[">=", "<="], float]
    ) -> None:
        """Compare the median of a system in a case with a bound in its own unit."""
        value = self.median(*of, unit)
        self._ratios.append({"name": name, "value": value, "unit": unit, **_judged(value, bound)})

    def note(self, text: str) -> None:
        """Keep a sentence that belongs to the figures."""
        self._notes.append(text)
        print(f"  {text}", flush=True)

    def show(self) -> None:
        """Print the medians and the ratios."""
        print(f"\n{self.question}: medians of {self._rounds()} rounds (lowest to highest)")
        for (case, system, unit), values in sorted(self._values.items()):
            spread = f"({format_number(min(values))} to {format_number(max(values))})"
            median = format_number(statistics.median(values))
            print(f"  {case:42} {system:34} {median:>10} {unit:10} {spread}")
        for ratio in self._ratios:
            bound = f"{ratio['bound'][0]} {ratio['bound'][1]:g}" if ratio["bound"] else ""
            verdict = {True: "reached", False: "MISSED", None: ""}[ratio["reached"]]
            value = format_ratio(ratio)
            print(f"  {ratio['name']:78} {value:>10} {bound:>8} {verdict}")

    def save(self) -> None:
        """Print the medians and the ratios, and write all of it to the results' directory."""
        self.show()
        DIRECTORY.mkdir(exist_ok=True)
        path = DIRECTORY / f"{self.question}.json"
        path.write_text(json.dumps(self._document(), indent=1, ensure_ascii=False) + "\n")

    def _rounds(self) -> int:
        return max((len(values) for values in self._values.values()), default=0)

    def _document(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "command": " ".join(["python -m", f"benchmarks.{self.question}", *sys.argv[1:]]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "values": [
                {"case": case, "system": system, "unit": unit, "values": values}
                for (case, system, unit), values in self._values.items()
            ],
            "ratios": self._ratios,
            "notes": self._notes,
        }


def machine() -> str:
    """Return what the figures were measured on."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def rounds(description: str | None, default: int) -> int:
    """Return how often to repeat, from the command line of a benchmark."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=default, help="repetitions of each case")
    return int(parser.parse_args().rounds)


def _judged(value: float | None, bound: tuple[str, float] | None) -> dict[str, Any]:
    if bound is None:
        return {"bound": None, "reached": None}
    sign, limit = bound
    if value is None:
        return {"bound": [sign, limit], "reached": None}
    return {"bound": [sign, limit], "reached": value >= limit if sign == ">=" else value <= limit}


def format_ratio(ratio: dict[str, Any]) -> str:
    """Return the value of a ratio or limit, with its unit."""
    if ratio["value"] is None:
        return "not compared"
    return f"{format_number(ratio['value'])} {ratio.get('unit', '')}".strip()


def format_number(value: float) -> str:
    """Return a value with three digits or so."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
