"""The tests' settings with the log in PostgreSQL, for child processes."""

from tests.settings import *  # noqa: F403 - all of them

STREAMBRIDGE = {"DATABASE": "postgres"}
