"""Frames of the WebSocket routes, to the character."""

import json

from streambridge_app.contract.batch import Batch
from streambridge_app.serve import socket_frames


def test_frame_of_a_run() -> None:
    assert socket_frames.encode("heartbeat", "a run") == '{"type":"heartbeat","run":"a run"}'


def test_frame_of_no_run() -> None:
    frame = socket_frames.encode("error", code="invalid_message", message="why")
    assert frame == '{"type":"error","code":"invalid_message","message":"why"}'


def test_fields_keep_their_order_and_may_be_null() -> None:
    frame = socket_frames.encode("gap", "r", requested=None, earliest="1-2", latest="1-3")
    assert frame == '{"type":"gap","run":"r","requested":null,"earliest":"1-2","latest":"1-3"}'


def test_events_are_numbered_and_their_data_stays_as_it_is() -> None:
    names = ["step", "done"]
    data = ['{"b": 1,"a":"\\u0000ä"}', "null"]
    assert socket_frames.encode_events(Batch(170, 9, names, data), "r") == [
        '{"type":"event","run":"r","id":"170-9","event":"step","data":{"b": 1,"a":"\\u0000ä"}}',
        '{"type":"event","run":"r","id":"170-10","event":"done","data":null}',
    ]


def test_no_events() -> None:
    assert socket_frames.encode_events(Batch(1, 1, [], []), "r") == []


def test_names_and_run_ids_of_any_characters_come_back() -> None:
    run_id, name = 'a "run" \\ ü\u2028日\U0001f600', 'na"me,\t\\ü'
    (frame,) = socket_frames.encode_events(Batch(1, 1, [name], ["[1]"]), run_id)
    expected = {"type": "event", "run": run_id, "id": "1-1", "event": name, "data": [1]}
    assert json.loads(frame) == expected
    assert json.loads(socket_frames.encode("error", run_id))["run"] == run_id


def test_run_that_utf8_cannot_carry_is_named_nevertheless() -> None:
    frame = socket_frames.encode("error", "lone \ud800")
    assert frame.encode() == rb'{"type":"error","run":"lone \ud800"}'
