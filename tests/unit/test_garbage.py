"""What a process has loaded, exempted from collections: seen in processes of their own."""

import subprocess
import sys

import pytest

SETUP = """
import gc
import time
import weakref

from django.conf import settings

settings.configure(STREAMBRIDGE={"FREEZE_GC": %s})

from streambridge_app import garbage


class Loop:
    def __init__(self):
        self.itself = self


gc.disable()
"""


def run(program: str, setting: bool = True) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SETUP % setting + program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("setting", "freezes"), [(True, True), (False, False)])
def test_what_is_loaded_is_frozen_once(setting: bool, freezes: bool) -> None:
    program = """
young = weakref.ref(Loop())
garbage.freeze()
assert young() is None or not gc.get_freeze_count()
first = gc.get_freeze_count()
kept = Loop()
garbage.freeze()
assert gc.get_freeze_count() <= first, "the second call froze more"
print(first)
"""
    assert (int(run(program, setting)) > 1000) is freezes


def test_a_full_collection_takes_what_came_later_and_freezes_what_it_finds_alive() -> None:
    run("""
garbage.freeze()
first = gc.get_freeze_count()
kept = [Loop() for _ in range(1000)]
dead = weakref.ref(Loop())
gc.collect()
assert dead() is None
assert gc.get_freeze_count() >= first + 1000, "what was found alive is not frozen"
""")


def test_younger_collections_freeze_nothing() -> None:
    run("""
garbage.freeze()
first = gc.get_freeze_count()
kept = [Loop() for _ in range(1000)]
gc.collect(0)
gc.collect(1)
assert gc.get_freeze_count() <= first
""")


def test_what_was_frozen_and_died_is_collected_after_a_while() -> None:
    run("""
garbage.freeze()
loop = Loop()
gc.collect()
dead = weakref.ref(loop)
del loop
gc.collect()
assert dead() is not None, "it was not frozen"
now = time.monotonic() + garbage.WHOLE_INTERVAL
time.monotonic = lambda: now
gc.collect()
assert dead() is None
first = gc.get_freeze_count()
assert first > 1000, "what is alive is not frozen again"
loop = Loop()
gc.collect()
dead = weakref.ref(loop)
del loop
gc.collect()
assert dead() is not None, "the next collection went through everything as well"
""")
