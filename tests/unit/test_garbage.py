"""Short and few collections of garbage: seen in processes of their own."""

import gc
import subprocess
import sys

import pytest
from django.test import override_settings

from streambridge_app.follow import garbage
from streambridge_app.follow.garbage import YOUNG_OBJECTS

PROGRAM = """
import gc
import sys
import weakref

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "streambridge_app"],
    STREAMBRIDGE={"TUNE_GC": sys.argv[1] == "True"},
)
django.setup()

from streambridge_app.follow.garbage import tune


class Loop:
    def __init__(self):
        self.itself = self


gc.disable()
garbage = weakref.ref(Loop())
tune()
assert garbage() is None or not gc.get_freeze_count()
first = gc.get_freeze_count()
later = Loop()
tune()
assert gc.get_freeze_count() <= first, "the second call froze more"
later = weakref.ref(later)
gc.collect()
assert later() is None, "what came later is collected"
print(first)
"""


@pytest.mark.parametrize(("setting", "freezes"), [(True, True), (False, False)])
def test_what_is_loaded_is_frozen_once_and_nothing_later(setting: bool, freezes: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(setting)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 1000) is freezes


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        (True, (700, 10, 10), (YOUNG_OBJECTS, 10, 10)),
        (True, (1000, 5, 0), (YOUNG_OBJECTS, 5, 0)),
        (True, (50_000, 5, 5), (50_000, 5, 5)),
        (True, (0, 10, 10), (0, 10, 10)),
        (False, (700, 10, 10), (700, 10, 10)),
    ],
)
def test_young_garbage_is_looked_for_less_often_but_never_more(setting, before, after, monkeypatch):
    monkeypatch.setattr(garbage, "_asked", False)
    frozen, threshold = gc.get_freeze_count(), gc.get_threshold()
    try:
        with override_settings(STREAMBRIDGE={"TUNE_GC": setting}):
            gc.set_threshold(*before)
            garbage.tune()
            assert gc.get_threshold() == after
    finally:
        gc.set_threshold(*threshold)
        if not frozen:
            gc.unfreeze()
