"""What a function can do inside, what it cannot, and where its limits are."""

from __future__ import annotations

import time

import pytest

from services.errors import DeadlineExceeded, ResourceExhausted
from tests.integration.wasm.functions import Functions

PROBE = """\
import os, socket, subprocess, sys, threading

def attempt(work):
    try:
        return repr(work())
    except BaseException as error:
        return type(error).__name__

def process(event):
    return {
        "fork": attempt(lambda: os.fork()),
        "exec": attempt(lambda: os.execv("/bin/sh", ["sh"])),
        "subprocess": attempt(lambda: subprocess.run(["true"])),
        "thread": attempt(lambda: threading.Thread(target=print).start()),
        "socket": attempt(lambda: socket.socket().connect(("127.0.0.1", event["port"]))),
        "resolve": attempt(lambda: socket.getaddrinfo("localhost", 80)),
        "host file": attempt(lambda: open("/etc/hostname").read()),
        "way out": attempt(lambda: open("/app/../../../../etc/hostname").read()),
        "data": attempt(lambda: os.listdir("/app/..")),
        "root": attempt(lambda: os.listdir("/")),
        "write": attempt(lambda: open("/app/new", "w")),
        "environment": dict(os.environ),
        "arguments": sys.argv,
        "files": sorted(os.listdir("/app")),
    }
"""

REFUSED = {"fork", "exec", "subprocess", "thread", "socket", "resolve", "host file", "way out", "data", "root", "write"}


@pytest.fixture
def host_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something in the engine's own environment."""
    monkeypatch.setenv("HOST_SECRET", "hunter2")


@pytest.mark.usefixtures("host_variable")
async def test_a_function_reaches_nothing_of_the_machine(engine: Functions) -> None:
    """No process, thread, socket, host file or write; no environment but the declared one; its own code is there."""
    await engine.deploy("probe", PROBE, env=[{"name": "GREETING", "value": "hello"}])
    found = await engine.result("probe", {"port": 1})
    errors = {"AttributeError", "PermissionError", "OSError", "FileNotFoundError", "gaierror", "RuntimeError"}
    errors |= {"NotADirectoryError"}
    assert {name: found[name] for name in REFUSED if found[name] not in errors} == {}
    assert found["environment"] == {"GREETING": "hello"}
    assert "main.py" in found["files"]


async def test_the_memory_limit_holds(engine: Functions) -> None:
    """What eats more than 512Mi fails cleanly, what needs less does not, and the next call works."""
    code = "def process(event):\n    return len(bytearray(event << 20))\n"
    await engine.deploy("eater", code, memory="512Mi")
    error = await engine.refused("eater", 600)
    assert (type(error), error.reason) == (ResourceExhausted, "OUT_OF_MEMORY")
    assert await engine.result("eater", 300) == 300 << 20
    greedy = (
        "def process(event):\n    kept = []\n    while event:\n        kept.append(bytearray(1 << 20))\n    return 1\n"
    )
    await engine.deploy("greedy", greedy, memory="96Mi")
    assert (await engine.refused("greedy", True)).reason == "OUT_OF_MEMORY"
    assert await engine.result("greedy", False) == 1


LOOPS = """\
import asyncio, sys, time

def loop():
    while True: pass

async def hang():
    await asyncio.sleep(60)

def process(event):
    print("begun", event)
    if event == "read":  # nothing to read: it waits by other means, in one call that does not come back
        import select
        return select.select([], [], [], 60)
    return {"loop": loop, "sleep": lambda: time.sleep(60), "async": lambda: asyncio.run(hang()), "none": int}[event]()
"""


@pytest.mark.parametrize("way", ["loop", "sleep", "async", "read"])
async def test_what_does_not_return_is_cut_at_its_timeout(engine: Functions, way: str) -> None:
    """An endless loop, a long sleep, a waiting coroutine, a blocking call; what it printed is kept; then it works."""
    await engine.deploy("slow", LOOPS, timeout="400ms")
    began = time.monotonic()
    error = await engine.refused("slow", way)
    assert (type(error), error.reason) == (DeadlineExceeded, "FUNCTION_TIMEOUT")
    assert time.monotonic() - began < 20
    assert [entry.text for entry in await engine.logs("slow")] == [f"begun {way}"]
    assert await engine.result("slow", "none") == 0
    assert await engine.fact("slow", "timeouts") == 1


async def test_a_caller_may_give_less_time_and_never_more(engine: Functions) -> None:
    """The shorter of both counts; a caller who leaves ends the call."""
    await engine.deploy("slow", LOOPS, timeout="1s", concurrency=1)
    assert "0.2s" in (await engine.refused("slow", "sleep", timeout=0.2)).message
    assert "1s" in (await engine.refused("slow", "sleep", timeout=50)).message
    assert isinstance(await engine.refused("slow", "loop", deadline=0.3), DeadlineExceeded)
    assert await engine.result("slow", "none") == 0


async def test_a_flood_of_output_is_cut_too(engine: Functions) -> None:
    """What was on its way when the worker was killed delays nobody; its last lines are kept."""
    code = "def process(event):\n    number = 0\n    while event:\n        number += 1\n        print(number)\n"
    await engine.deploy("flood", code, timeout="300ms")
    began = time.monotonic()
    assert (await engine.refused("flood", True)).reason == "FUNCTION_TIMEOUT"
    assert time.monotonic() - began < 5
    kept = [int(entry.text) for entry in await engine.logs("flood")]
    assert kept == list(range(kept[0], kept[0] + len(kept)))
    assert len(kept) <= 5000
    assert await engine.result("flood", False) is None
