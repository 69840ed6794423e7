import inspect

import pytest

from streambridge_app import exceptions
from streambridge_app.exceptions import StreamBridgeError

ERRORS = [
    error
    for _, error in inspect.getmembers(exceptions, inspect.isclass)
    if error is not StreamBridgeError
]


@pytest.mark.parametrize("error", ERRORS)
def test_each_error_is_also_the_built_in_it_is_a_kind_of(error):
    ours, built_in = error.__bases__
    assert ours is StreamBridgeError
    assert built_in.__module__ == "builtins"
    assert built_in is not Exception


@pytest.mark.parametrize("error", ERRORS)
def test_the_message_is_the_text(error):
    assert str(error("what was wrong")) == "what was wrong"
    assert error.__doc__
