"""
Run all benchmarks, or those named, and write docs/benchmarks.md from what they found.

    python -m benchmarks [publish] [burst] [latency] [replay] [idle] [growth]
        [stages]

With --against, compare this tree with another revision instead: see benchmarks/against.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks import against, report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("questions", nargs="*", choices=[*report.QUESTIONS, []])
    parser.add_argument("--against", metavar="REV", help="a revision to compare this tree with")
    parser.add_argument("--rounds", type=int, default=5, help="of a comparison")
    options = parser.parse_args()
    if options.against:
        if missing := set(options.questions) - against.QUESTIONS.keys():
            parser.error(f"not compared with other revisions: {', '.join(sorted(missing))}")
        against.compare(options.against, options.questions, options.rounds)
        return
    for question in options.questions or report.QUESTIONS:
        print(f"\n==> {question}", flush=True)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", f"benchmarks.{question}"], check=True)
        print(f"==> {question}: {time.monotonic() - started:.0f} s", flush=True)
    report.main()


if __name__ == "__main__":
    main()
