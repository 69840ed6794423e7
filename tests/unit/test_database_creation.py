import inspect

import pytest
from django.db.backends.base.creation import BaseDatabaseCreation
from django.test import runner
from django.test.utils import setup_databases, teardown_databases

from streambridge_app import get_bridge, registry
from streambridge_app.runtime import database_creation
from tests.conftest import MEMORY


@pytest.fixture
def unwrapped(monkeypatch):
    """Django as it is before the first bridge."""
    monkeypatch.setattr(database_creation, "_wrapped", False)
    for name in database_creation.METHODS:
        method = getattr(BaseDatabaseCreation, name)
        monkeypatch.setattr(BaseDatabaseCreation, name, inspect.unwrap(method))


def test_django_has_the_methods_and_calls_them():
    """If this fails, Django has moved them: find out what its test runner calls now."""
    callers = "".join(
        inspect.getsource(one) for one in (setup_databases, teardown_databases, runner)
    )
    for name in database_creation.METHODS:
        assert callable(vars(BaseDatabaseCreation)[name])
        assert f".{name}(" in callers


def test_the_bridge_is_let_go_before_each_of_them(unwrapped, monkeypatch, settings):
    done = []
    for name in database_creation.METHODS:
        monkeypatch.setattr(BaseDatabaseCreation, name, lambda *args, name=name: done.append(name))
    settings.STREAMBRIDGE = {"BACKEND": MEMORY}
    registry.reset()
    for name in database_creation.METHODS:
        bridge = get_bridge()
        getattr(BaseDatabaseCreation(None), name)("argument")
        assert bridge.closed
        assert done.pop() == name


def test_they_are_wrapped_once(unwrapped):
    calls = []
    for _ in range(2):
        database_creation.before_test_databases(lambda: calls.append(1))
    wrapped = BaseDatabaseCreation.destroy_test_db
    assert not hasattr(wrapped.__wrapped__, "__wrapped__")


def test_a_django_without_them_is_left_alone(unwrapped, monkeypatch):
    for name in database_creation.METHODS:
        monkeypatch.delattr(BaseDatabaseCreation, name)
    database_creation.before_test_databases(lambda: None)
    assert not any(hasattr(BaseDatabaseCreation, name) for name in database_creation.METHODS)
