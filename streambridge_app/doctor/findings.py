"""What a check has found, in words, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

OK: Final = "ok"
WARNING: Final = "warning"
FAIL: Final = "fail"
SKIPPED: Final = "skipped"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is not as it should be."""

    status: str
    """``warning`` or ``fail``."""
    text: str
    hint: str
    """What to do about it."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a check that came to its end has found."""

    text: str
    """A measure of what is there: a time, a number, a version."""
    problems: tuple[Problem, ...] = ()


class Failed(Exception):
    """The check came to no end, and knows why."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint
        """What to do about it, if that is not the hint of the check."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the report says of one check."""

    check: str
    status: str
    """``ok``, ``warning``, ``fail`` or ``skipped``."""
    text: str
    seconds: float = 0.0
    problems: tuple[Problem, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def status_of(problems: tuple[Problem, ...]) -> str:
    """Return the status of the worst of some problems; ``ok`` if there are none."""
    found = {problem.status for problem in problems}
    return FAIL if FAIL in found else WARNING if WARNING in found else OK
