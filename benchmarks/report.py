"""
Write docs/benchmarks.md and its plots from the results of the benchmarks.

    python -m benchmarks.report

Everything on that page comes from benchmarks/results/*.json, as the scripts left it.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.results import DIRECTORY, format_number, format_ratio

mpl.use("svg")
from matplotlib import pyplot

DOCS = Path(__file__).resolve().parent.parent / "docs"
QUESTIONS = ("publish", "burst", "latency", "replay", "idle", "growth", "stages")
PLOTS = {
    "burst": ("events/s", "Burst of 50,000 events: delivered per second"),
    "replay": ("events/s", "Replay of a finished run: events per second"),
    "latency": ("ms p99", "From publish to client: 99th percentile in milliseconds"),
}
OURS = "streambridge"

INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks.report` from what `make bench` measured; see
[benchmarks/README.md](../benchmarks/README.md) for what each script does. Workers, server and
clients are separate processes on one machine, what clients read comes over HTTP, and every event is
checked for order, loss and duplicates: a wrong count is a failed run, not a figure. Absolute
figures belong to the machine named below; the ratios carry over. Values are medians, with the
lowest and the highest of the rounds in parentheses.
"""


def main() -> None:
    documents = {
        name: json.loads((DIRECTORY / f"{name}.json").read_text())
        for name in QUESTIONS
        if (DIRECTORY / f"{name}.json").exists()
    }
    parts = [INTRODUCTION, targets(documents)]
    for name, document in documents.items():
        parts.append(section(document))
        if name in PLOTS:
            unit, title = PLOTS[name]
            plot(document, unit, title, DOCS / "benchmarks" / f"{name}.svg")
            parts.append(f"![{title}](benchmarks/{name}.svg)\n")
    (DOCS / "benchmarks.md").write_text("\n".join(parts))


def targets(documents: dict[str, Any]) -> str:
    """Return the table of all ratios with a bound."""
    lines = ["## What it reaches\n", "| | measured | bound | |", "| --- | ---: | ---: | --- |"]
    for document in documents.values():
        for ratio in document["ratios"]:
            if ratio["bound"] is None:
                continue
            sign, bound = ratio["bound"]
            symbol = {">=": "≥", "<=": "≤"}[sign]
            verdict = {True: "reached", False: "**missed**", None: ""}[ratio["reached"]]
            value = format_ratio(ratio)
            lines.append(f"| {ratio['name']} | {value} | {symbol} {bound:g} | {verdict} |")
    return "\n".join(lines) + "\n"


def section(document: dict[str, Any]) -> str:
    """Return one question's command, its values, the ratios without a bound, and its notes."""
    lines = [
        f"## {document['question']}\n",
        f"`{document['command']}`, {document['date']}, {document['machine']}.\n",
        "| case | system | median | |",
        "| --- | --- | ---: | --- |",
    ]
    for row in document["values"]:
        values = row["values"]
        median = format_number(statistics.median(values))
        spread = f"({format_number(min(values))} to {format_number(max(values))})"
        lines.append(f"| {row['case']} | {row['system']} | {median} | {row['unit']} {spread} |")
    free = [ratio for ratio in document["ratios"] if ratio["bound"] is None]
    if free:
        lines.append("")
        lines += [f"- {ratio['name']}: {format_ratio(ratio)}" for ratio in free]
    if document["notes"]:
        lines.append("")
        lines += [f"- {note}" for note in document["notes"]]
    return "\n".join(lines) + "\n"


def plot(document: dict[str, Any], unit: str, title: str, path: Path) -> None:
    """Draw the medians of one unit as bars on a logarithmic scale, a group for each case."""
    rows = [row for row in document["values"] if row["unit"] == unit]
    labels = [f"{row['system']}  ·  {row['case']}" for row in rows]
    medians = [statistics.median(row["values"]) for row in rows]
    colors = ["#1b6ac9" if OURS in row["system"] else "#9aa5b1" for row in rows]
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.27 * len(rows)))
    places = range(len(rows))
    axes.barh(places, medians, color=colors)
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(unit, fontsize=8)
    axes.set_title(title, fontsize=10, loc="left")
    for place, median in zip(places, medians, strict=True):
        axes.annotate(f" {format_number(median)}", (median, place), va="center", fontsize=7)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
