"""
The demo's jobs: real work on what every machine with Python has.

A job is a fixed name, never a command from outside. ``python -m project.jobs NAME`` does it and
prints each step as a line of JSON, with the step's number and the number of all of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import checksums, modules, packages

Step = dict[str, Any]


@dataclass(frozen=True)
class Job:
    title: str
    about: str
    event: str
    """Name under which the steps are published."""
    steps: Callable[[], Iterator[Step]]


JOBS = {
    "packages": Job(
        "Check installed packages",
        "Hash every file of every installed distribution and compare it with what was installed.",
        "package",
        packages.check,
    ),
    "compile": Job(
        "Compile the standard library",
        "Compile each module of Python's standard library to a temporary directory, with its time.",
        "module",
        modules.compile_all,
    ),
    "checksum": Job(
        "Checksum a source tree",
        "Walk Python's library directory and take the SHA-256 of each file.",
        "file",
        checksums.of_library,
    ),
}
