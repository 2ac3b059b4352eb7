"""What goes in and out of a function, and how it is told that something went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from beemesh.engine.v1 import function_service_pb2 as pb
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from services.errors import (
    Aborted,
    BeemeshError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests.harness.errors import refusal
from tests.integration.wasm.functions import SECONDS, Functions, functions

MANY = """\
import asyncio, json, random, sys, uuid

state = {"calls": 0}

def count(event): return list(range(event["n"]))
def same(event): return event
def told(event, context):
    print("out", context.function_name)
    print("err", file=sys.stderr)
    return [context.invocation_id, context.memory_bytes, 0 < context.remaining_seconds() <= 30]
async def later(event):
    await asyncio.sleep(0.01)
    return sum(await asyncio.gather(*(one(n) for n in event)))
async def one(n): return n
def chance(event): return [random.random(), str(uuid.uuid4())]
def remembers(event):
    state["calls"] += 1
    return state["calls"]
def fails(event):
    deeper(event)
def deeper(event):
    raise KeyError(f"no {event}")
def odd(event): return {1, 2}
def not_a_number(event): return float("nan")
def huge(event): return "x" * (7 << 20)
def ends(event): sys.exit(3)
def deep(event): return deep(event)
"""


async def deployed(engine: Functions, *handlers: str) -> None:
    """One function for each handler, named like it."""
    for handler in handlers:
        name = handler.replace("_", "-")
        await engine.deploy(name, MANY, handler=f"main.{handler}")


async def test_events_and_results_are_exact(engine: Functions) -> None:
    """Integers of a Value are integers inside, 2^53 + 1 survives as JSON text, and text of every kind comes back."""
    await deployed(engine, "count", "same")
    event = ParseDict({"n": 3}, Value())
    answer = await engine.stub.InvokeFunction(
        pb.InvokeFunctionRequest(workload_id="count", event=event), timeout=SECONDS
    )
    assert [item.number_value for item in answer.result.list_value.values] == [0, 1, 2]
    exact = await engine.stub.InvokeFunction(
        pb.InvokeFunctionRequest(workload_id="same", event_json=b" 9007199254740993 "), timeout=SECONDS
    )
    assert exact.result_json == b"9007199254740993"
    odd: dict[str, object] = {"ü☃\U0001f41d": ["\u0000\n", None, True, 1e300, -0.5, {"": []}], "lone": "\ud800"}
    assert await engine.result("same", odd) == odd
    deep: list[object] = []
    for _ in range(900):
        deep = [deep]
    assert await engine.result("same", deep) == deep
    large = "y" * (5 << 20)
    assert await engine.result("same", large) == large


async def test_handlers_of_every_kind_are_called(engine: Functions) -> None:
    """With a context, as a coroutine; warm instances keep their state, and no two instances share their chance."""
    await deployed(engine, "told", "later", "remembers", "chance")
    told = await engine.call("told")
    assert json.loads(told.result_json) == [told.invocation_id, 128 << 20, True]
    assert [(entry.text, entry.source, entry.invocation_id) for entry in told.logs] == [
        ("out told", 1, told.invocation_id),
        ("err", 2, told.invocation_id),
    ]
    assert told.duration.ToMilliseconds() < 10_000
    assert await engine.result("later", [1, 2, 3]) == 6
    assert [await engine.result("remembers") for _ in range(3)] == [1, 2, 3]
    await engine.deploy("chance-2", MANY, handler="main.chance")
    first, second = await engine.result("chance"), await engine.result("chance-2")
    assert first[0] != second[0]
    assert first[1] != second[1]


async def test_a_handler_that_raises_tells_type_message_and_traceback(engine: Functions) -> None:
    """ABORTED, with the lines of the function's own code and nothing of the runner's; the instance goes on."""
    await deployed(engine, "fails")
    error = await engine.refused("fails", "bee")
    assert (type(error), error.reason) == (Aborted, "FUNCTION_ERROR")
    assert error.metadata["error_type"] == "KeyError"
    assert "no bee" in error.message
    assert 'File "/app/main.py"' in error.trace
    assert "in deeper" in error.trace
    assert "runner.py" not in error.trace
    await engine.refused("fails", "wasp")
    assert await engine.fact("fails", "cold_starts") == 1


@pytest.mark.parametrize(
    ("handler", "kind", "reason", "words"),
    [
        ("odd", Aborted, "RESULT_NOT_JSON", "set"),
        ("not_a_number", Aborted, "RESULT_NOT_JSON", "JSON"),
        ("huge", Aborted, "RESULT_TOO_LARGE", "6291456"),
        ("ends", Aborted, "FUNCTION_ERROR", "SystemExit: 3"),
        ("deep", Aborted, "FUNCTION_ERROR", "RecursionError"),
    ],
)
async def test_a_result_that_cannot_be_told_is_an_error(
    engine: Functions, handler: str, kind: type[BeemeshError], reason: str, words: str
) -> None:
    """No JSON, too large, an exit, bottomless recursion."""
    await deployed(engine, handler)
    error = await engine.refused(handler.replace("_", "-"))
    assert (type(error), error.reason) == (kind, reason)
    assert words in error.message


async def test_a_bad_event_is_refused(engine: Functions) -> None:
    """Ten megabytes, no JSON, no event, a function that is not there."""
    await deployed(engine, "same")
    large = await engine.refused("same", "x" * (10 << 20))
    assert (type(large), large.reason, large.metadata["limit"]) == (InvalidArgument, "EVENT_TOO_LARGE", str(6 << 20))
    for text in (b"{", b"NaN", b"\xff", b"[" * 100_000):
        request = pb.InvokeFunctionRequest(workload_id="same", event_json=text)
        error = await refusal(engine.stub.InvokeFunction(request, timeout=SECONDS))
        assert (type(error), error.reason) == (InvalidArgument, "EVENT_NOT_JSON")
    missing = await refusal(engine.stub.InvokeFunction(pb.InvokeFunctionRequest(workload_id="same"), timeout=SECONDS))
    assert missing.reason == "EVENT_REQUIRED"
    nobody = await engine.refused("nobody")
    assert (type(nobody), nobody.reason) == (NotFound, "WORKLOAD_NOT_FOUND")
    assert await engine.result("same", 1) == 1


BROKEN = {
    "syntax": ("def process(event):\n    return (\n", "CODE_INVALID", "main.py line 2"),
    "missing": ("def other(event): pass\n", "HANDLER_NOT_FOUND", "process"),
    "no function": ("process = 5\n", "HANDLER_NOT_FOUND", "cannot call"),
    "signature": ("def process(a, b, c): pass\n", "HANDLER_NOT_FOUND", "(a, b, c)"),
    "import": ("import requests\n", "FUNCTION_LOAD_FAILED", "requests"),
    "raises": ("1 / 0\n", "FUNCTION_LOAD_FAILED", "ZeroDivisionError"),
}


async def test_code_that_cannot_be_loaded_is_refused_when_it_is_deployed(engine: Functions) -> None:
    """A syntax error with its line, a handler that is not there or cannot be called, a bad import; nothing stays."""
    for name, (code, reason, words) in BROKEN.items():
        error = await refusal(engine.deploy("broken", code))
        assert (type(error), error.reason) == (FailedPrecondition, reason), name
        assert words in error.message, name
        assert "leftovers" not in error.metadata
    assert isinstance(await refusal(engine.get("broken")), NotFound)


async def test_a_thousand_calls_of_eight_clients_are_neither_lost_nor_mixed_up(engine: Functions) -> None:
    """Each gets the answer to its own question."""
    await engine.deploy("echo", "def process(event):\n    print(event)\n    return event * 2\n", concurrency=3)

    async def client(number: int) -> list[int]:
        return [await engine.result("echo", number * 1000 + n) for n in range(125)]

    answers = await asyncio.gather(*(client(number) for number in range(8)))
    assert answers == [[2 * (number * 1000 + n) for n in range(125)] for number in range(8)]
    assert await engine.fact("echo", "invocations") == 1000
    assert await engine.fact("echo", "errors") == 0
    assert await engine.fact("echo", "cold_starts") <= 3


async def test_a_killed_worker_loses_its_own_call_alone(engine: Functions) -> None:
    """UNAVAILABLE for the call in it, which says so; the others end well, and so does the next one."""
    code = "import time\ndef process(event):\n    print('begun')\n    time.sleep(event)\n    return event\n"
    await engine.deploy("sleeper", code, concurrency=3)
    calls = [asyncio.ensure_future(engine.call("sleeper", 2.5)) for _ in range(3)]
    async with asyncio.timeout(SECONDS):
        while len(await engine.logs("sleeper")) < 3:
            await asyncio.sleep(0.05)
    busy = await engine.fact("sleeper", "worker_pids")
    assert len(busy) == 3
    os.kill(int(busy[0]), signal.SIGKILL)
    done = await asyncio.gather(*calls, return_exceptions=True)
    lost = [item for item in done if isinstance(item, BaseException)]
    assert [(type(error), getattr(error, "reason", "")) for error in lost] == [(Unavailable, "WORKER_LOST")]
    assert await engine.result("sleeper", 0) == 0
    for pid in await engine.fact("sleeper", "worker_pids"):
        os.kill(int(pid), signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert await engine.result("sleeper", 0) == 0


async def test_calls_queue_up_to_a_limit(directory: Path) -> None:
    """One runs, two wait, the fourth is refused at once; those that wait get their turn, or are told in time."""
    async with functions(directory, queue=2, queue_timeout=1.0) as engine:
        await queue_up(engine)


async def queue_up(engine: Functions) -> None:
    """See above."""
    await engine.deploy("one", "import time\ndef process(event):\n    time.sleep(event)\n    return 1\n", concurrency=1)
    running = [asyncio.ensure_future(engine.call("one", 0.3)) for _ in range(3)]
    await asyncio.sleep(0.15)
    error = await engine.refused("one", 0)
    assert (type(error), error.reason) == (ResourceExhausted, "QUEUE_FULL")
    assert [json.loads((await call).result_json) for call in running] == [1, 1, 1]
    running = [asyncio.ensure_future(engine.call("one", wait)) for wait in (3, 0)]
    done = await asyncio.gather(*running, return_exceptions=True)
    assert [getattr(item, "reason", "") for item in done] == ["", "QUEUE_TIMEOUT"]
