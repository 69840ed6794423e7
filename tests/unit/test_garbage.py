"""What a process has loaded, exempted from collections: seen in processes of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc
import weakref

from django.conf import settings

settings.configure(STREAMBRIDGE={"FREEZE_GC": %s})

from streambridge_app.garbage import freeze


class Loop:
    def __init__(self):
        self.itself = self


gc.disable()
garbage = weakref.ref(Loop())
freeze()
assert garbage() is None or not gc.get_freeze_count()
first = gc.get_freeze_count()
later = Loop()
freeze()
assert gc.get_freeze_count() <= first, "the second call froze more"
later = weakref.ref(later)
gc.collect()
assert later() is None, "what came later is collected"
print(first)
"""


@pytest.mark.parametrize(("setting", "freezes"), [(True, True), (False, False)])
def test_what_is_loaded_is_frozen_once_and_nothing_later(setting: bool, freezes: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % setting], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 1000) is freezes
