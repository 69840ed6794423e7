"""
Run all benchmarks, or those named, and write docs/benchmarks.md from what they found.

    python -m benchmarks [publish] [burst] [latency] [replay] [idle] [growth]
        [stages]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", choices=[*report.QUESTIONS, []])
    wanted = parser.parse_args().questions or report.QUESTIONS
    for question in wanted:
        print(f"\n==> {question}", flush=True)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", f"benchmarks.{question}"], check=True)
        print(f"==> {question}: {time.monotonic() - started:.0f} s", flush=True)
    report.main()


if __name__ == "__main__":
    main()
