"""The short form of the chaos run: each kind of fault at real processes, and nothing is lost."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.services import TIMEOUT_SCALE, spawn

SECONDS = 18
SEEDS = ["1", *filter(None, [os.environ.get("CHAOS_SEED")])]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost(seed: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["--seconds", str(SECONDS), "--seed", seed, "--json", path]
    chaos = spawn([sys.executable, "-m", "tests.chaos.chaos", *arguments])
    try:
        assert chaos.wait(300 * TIMEOUT_SCALE) == 0
    finally:
        chaos.kill()
    report = json.loads(path.read_text())
    assert report["violations"] == []
    assert report["totals"]["runs"] > 10
    assert report["totals"]["events in the log"] > 10_000
