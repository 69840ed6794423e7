"""What `--older-than` takes."""

from __future__ import annotations

import argparse

import pytest
from django.core.management import CommandError, call_command

from streambridge_app.management.commands.streambridge_prune import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("1.5w", 907_200)],
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "-1", "1y", "1 d", "d", "1h30m", "9" * 30, "9" * 400])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)
    with pytest.raises(CommandError, match="argument --older-than"):
        call_command("streambridge_prune", f"--older-than={text}")
