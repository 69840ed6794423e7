import datetime
import inspect
import json
import re
import uuid
from types import MappingProxyType

import pytest
from django.http import QueryDict

from streambridge_app import RunOptions, StreamBridge
from streambridge_app.backends.channel_layer import ChannelLayerBridge
from streambridge_app.backends.memory import MemoryBridge
from streambridge_app.backends.transactional import TransactionalBridge
from streambridge_app.contract.lifecycle import new_end, new_run
from streambridge_app.exceptions import InvalidEvent, InvalidRunId


class User:
    pk = 7


def test_a_run_without_an_id_gets_a_uuid():
    (first, _), (second, _) = new_run(None, {}, 100), new_run(None, {}, 100)
    assert uuid.UUID(first) != uuid.UUID(second)


@pytest.mark.parametrize(("owner", "key"), [(None, None), (7, 7), ("name", "name"), (User(), 7)])
def test_the_owner_becomes_its_key(owner, key):
    assert new_run("run", {"owner": owner}, 100)[1].owner_id == key


def test_an_owner_must_have_been_saved():
    class Unsaved:
        pk = None

    class Anonymous(Unsaved):
        is_anonymous = True

    with pytest.raises(ValueError, match="save it first"):
        new_run("run", {"owner": Unsaved()}, 100)
    assert new_run("run", {"owner": Anonymous()}, 100)[1].owner_id is None


def test_metadata_must_be_a_mapping():
    with pytest.raises(TypeError, match=r"metadata must be a mapping, not \[1\]"):
        new_run("run", {"metadata": [1]}, 100)


def test_metadata_becomes_json():
    assert new_run("run", {"metadata": {"b": 1, "a": 2}}, 100)[1].metadata_json == '{"b":1,"a":2}'
    assert new_run("run", {}, 100)[1].metadata_json == "{}"
    when = MappingProxyType({"when": datetime.date(2026, 1, 2)})
    assert new_run("run", {"metadata": when}, 100)[1].metadata_json == '{"when":"2026-01-02"}'


def test_a_uuid_is_a_run_id():
    run_id = uuid.uuid4()
    assert new_run(run_id, {}, 100)[0] == str(run_id)
    assert new_end(run_id, "success", None).run_id == str(run_id)


def test_wrong_arguments_of_a_run_are_refused():
    with pytest.raises(InvalidRunId):
        new_run("", {}, 100)
    with pytest.raises(InvalidEvent, match=r'metadata\["a"\] is a set'):
        new_run("run", {"metadata": {"a": {1}}}, 100)
    with pytest.raises(InvalidEvent, match=r"metadata is a .*QueryDict"):
        new_run("run", {"metadata": QueryDict("a=1&a=2")}, 100)
    with pytest.raises(InvalidEvent):
        new_run("run", {"metadata": {"a": "x" * 100}}, 100)


def test_an_unknown_option_is_named():
    with pytest.raises(
        TypeError, match=r"create_run\(\) has no option 'max_event'; it has owner, "
    ):
        new_run("run", {"keep": 1, "max_event": 1}, 100)


def test_help_tells_of_every_option():
    documented = re.findall(r"^(\w+): ", inspect.getdoc(RunOptions), re.MULTILINE)
    assert documented == list(RunOptions.__annotations__)
    for bridge in (StreamBridge, ChannelLayerBridge, TransactionalBridge, MemoryBridge):
        assert "streambridge_app.RunOptions" in inspect.getdoc(bridge.create_run)


def test_an_end_without_an_error_appends_nothing():
    assert new_end("run", "lost", None) == ("run", [], [], "lost")


def test_an_error_is_appended_and_turns_success_into_error():
    run_id, names, data, status = new_end("run", "success", ValueError("no"))
    assert (run_id, names, status) == ("run", ["error"], "error")
    assert json.loads(data[0]) == {"error": "ValueError", "message": "no"}
    assert new_end("run", "cancelled", "by the user").status == "cancelled"


@pytest.mark.parametrize("message", ["x" * 10_000_000, "\u0000" * 10_000_000, "\ud800\n"])
def test_no_error_is_too_large_or_strange_to_end_with(message):
    (text,) = new_end("run", "success", ValueError(message)).data
    assert len(text) < 200_000
    assert "\n" not in text
