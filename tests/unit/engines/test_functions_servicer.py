"""The wire's form of events and results: exact, or told in another way."""

from __future__ import annotations

import json

import pytest
from beemesh.engine.v1 import function_service_pb2 as pb
from google.protobuf.struct_pb2 import Value

from services.engines.engine import Invoked, LogLine, LogSource
from services.engines.functions import event_of, fill, plain, response_of
from services.errors import InvalidArgument

BIG = 9007199254740993
"""2^53 + 1: no double holds it."""


def told(result: object, *, as_value: bool = True) -> pb.InvokeFunctionResponse:
    """The answer to a call with this result."""
    line = LogLine(component_id="c", source=LogSource.STDOUT, time=1.5, text="hello", invocation_id="i")
    invoked = Invoked(
        result=json.dumps(result).encode(), logs=(line,), invocation_id="i", cold_start=True, duration=0.25
    )
    return response_of(invoked, as_value=as_value)


def test_an_exact_event_passes_through_byte_for_byte() -> None:
    """Spaces, large integers and all."""
    text = b'{"n" : 9007199254740993 }'
    assert event_of(pb.InvokeFunctionRequest(event_json=text)) == text


def test_whole_numbers_of_a_value_are_integers() -> None:
    """So that range(event["n"]) works; beyond 2^53 they stay what they are on the wire, doubles."""
    event = Value()
    fill(event, {"n": 3, "x": 0.5, "list": [True, None, "a", {}], "empty": []})
    assert json.loads(event_of(pb.InvokeFunctionRequest(event=event))) == {
        "n": 3,
        "x": 0.5,
        "list": [True, None, "a", {}],
        "empty": [],
    }
    assert isinstance(plain(Value(number_value=3.0)), int)
    assert plain(Value(number_value=2.0**60)) == 2.0**60
    assert isinstance(plain(Value(number_value=2.0**60)), float)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused(number: float) -> None:
    """INVALID_ARGUMENT with the field."""
    with pytest.raises(InvalidArgument) as caught:
        event_of(pb.InvokeFunctionRequest(event=Value(number_value=number)))
    assert caught.value.violations[0].field_path == "event"


def test_a_call_needs_an_event() -> None:
    """One that is null is one; none at all is refused."""
    assert event_of(pb.InvokeFunctionRequest(event=Value(null_value=0))) == b"null"  # type: ignore[arg-type]  # the enum's only number
    with pytest.raises(InvalidArgument) as caught:
        event_of(pb.InvokeFunctionRequest())
    assert caught.value.reason == "EVENT_REQUIRED"


@pytest.mark.parametrize("result", [None, 3, 0.5, "a", [], {}, {"a": [1, {"b": None}]}, 2**53])
def test_a_result_has_the_form_of_the_request(result: object) -> None:
    """A Value for an event, JSON text for event_json; with its logs and facts."""
    answer = told(result)
    assert plain(answer.result) == result
    assert (answer.WhichOneof("payload"), answer.invocation_id, answer.cold_start) == ("result", "i", True)
    assert (answer.logs[0].text, answer.logs[0].invocation_id) == ("hello", "i")
    assert answer.duration.ToMilliseconds() == 250
    assert json.loads(told(result, as_value=False).result_json) == result


@pytest.mark.parametrize("result", [BIG, -BIG, {"a": [BIG]}])
def test_a_result_that_no_value_can_hold_comes_as_text(result: object) -> None:
    """Exact, rather than rounded."""
    answer = told(result)
    assert answer.WhichOneof("payload") == "result_json"
    assert json.loads(answer.result_json) == result
