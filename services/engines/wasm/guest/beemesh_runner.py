"""Loads a function's code and calls its handler, inside the sandbox. It knows nothing of the engine outside.

componentize-py takes a snapshot of this interpreter once it has run this file: what is imported by then is what
functions can import of the standard library, and it costs them nothing.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import importlib
import inspect
import json
import linecache
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import wit_world  # type: ignore[import-not-found]  # there only inside the component
from componentize_py_types import Err  # type: ignore[import-not-found]  # the same

APP = "/app"


def _take_along(listing: Path) -> None:
    """Import every module of the standard library that is listed and there."""
    for line in listing.read_text().splitlines():
        for name in () if line.startswith("#") else line.split():
            try:
                importlib.import_module(name)
            except ImportError:  # this build of Python has no such module
                continue


_take_along(Path(__file__).parent / "modules.txt")


class _Sleeper:
    """What an event loop waits with where there is nothing to wait for but time."""

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise RuntimeError("the handler waits for something that nothing in the sandbox can bring about")
        if timeout > 0:
            time.sleep(timeout)
        return []


class EventLoop(asyncio.base_events.BaseEventLoop):
    """Timers and tasks; there are no sockets, processes or threads here to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Sleeper()

    def _process_events(self, events: list[object]) -> None:
        return

    def _write_to_self(self) -> None:
        return


asyncio.new_event_loop = asyncio.events.new_event_loop = EventLoop


class Context:
    """The handler's second argument: which invocation this is, and how much time it has."""

    def __init__(self, *, invocation_id: str, function_name: str, memory_bytes: int, deadline: float) -> None:
        self.invocation_id = invocation_id
        self.function_name = function_name
        self.memory_bytes = memory_bytes
        self.deadline = deadline
        """Seconds since 1970."""

    def remaining_seconds(self) -> float:
        """Until the invocation is cut."""
        return max(0.0, self.deadline - time.time())


class Problem(Exception):
    """What is told of something that went wrong; the fields are those of the JSON that leaves the sandbox."""

    def __init__(self, kind: str, message: str, error: BaseException | None = None, **fields: object) -> None:
        super().__init__(message)
        self.fields: dict[str, object] = {"kind": kind, "message": message, **fields}
        if error is not None:
            self.fields |= {"type": type(error).__name__, "trace": _trace(error)}


class _Function:
    """The one function of this instance."""

    def __init__(self) -> None:
        self.handler: Callable[..., object] | None = None
        self.wants_context = False
        self.name = ""
        self.memory_bytes = 0

    def load(self, order: dict[str, Any]) -> str:
        os.environ.clear()
        os.environ.update(order["env"])
        random.seed()  # the snapshot's state is everybody's
        self.name, self.memory_bytes = order["name"], order["memory_bytes"]
        sys.path[:] = [APP]
        importlib.invalidate_caches()
        path, _, attribute = order["handler"].rpartition(".")
        handler = getattr(_import(path), attribute, None)
        if not callable(handler):
            what = "has no" if handler is None else "has, but cannot call,"
            raise Problem("handler", f"module {path} {what} {attribute!r}")
        self.wants_context = _takes_two(handler)
        self.handler = handler
        return "{}"

    def invoke(self, event: str, call: dict[str, Any]) -> str:
        if self.handler is None:
            raise Problem("handler", "nothing is loaded")
        arguments = [_decoded(event)]
        if self.wants_context:
            arguments.append(
                Context(
                    invocation_id=call["id"],
                    function_name=self.name,
                    memory_bytes=self.memory_bytes,
                    deadline=call["deadline"],
                )
            )
        result = self.handler(*arguments)
        if inspect.isawaitable(result):
            with asyncio.Runner(loop_factory=EventLoop) as runner:
                result = runner.run(_awaited(result))
        return _encoded(result)


async def _awaited(result: Any) -> object:
    return await result


def _import(path: str) -> object:
    try:
        return importlib.import_module(path)
    except MemoryError:
        raise
    except SyntaxError as error:
        name = (error.filename or "").removeprefix(APP + "/")
        message = f"{name} line {error.lineno}: {error.msg}"
        raise Problem("syntax", message, error, file=name, line=error.lineno or 0) from None
    except ModuleNotFoundError as error:
        if error.name and f"{path}.".startswith(f"{error.name}."):
            raise Problem("handler", f"there is no module {error.name!r} in the code") from None
        raise Problem("load", str(error), error) from None
    except BaseException as error:
        raise Problem("load", str(error), error) from None


def _takes_two(handler: Callable[..., object]) -> bool:
    """Whether it is called with (event, context); with (event) alone where it takes no more."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return False
    for count in (2, 1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count == 2
    raise Problem("handler", f"the handler takes {signature}; it is called with (event) or (event, context)")


def _decoded(event: str) -> object:
    try:
        return json.loads(event, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Problem("event", f"the event is not JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _encoded(result: object) -> str:
    try:
        return json.dumps(result, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise Problem("result", f"the handler's result is not JSON: {error}") from None


def _trace(error: BaseException) -> str:
    """The traceback, from the function's own code on."""
    linecache.checkcache()
    own = error.__traceback__
    while own is not None and not own.tb_frame.f_code.co_filename.startswith(APP):
        own = own.tb_next
    return "".join(traceback.format_exception(type(error), error, own or error.__traceback__))


_function = _Function()


def _told(work: Callable[[], str]) -> str:
    """The answer of `work`; what it raises as a problem in JSON."""
    try:
        return work()
    except Problem as problem:
        told = problem.fields
    except MemoryError:
        told = {"kind": "memory", "message": "the function ran out of memory", "type": "MemoryError"}
    except BaseException as error:
        told = Problem("raised", str(error), error).fields
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    raise Err(json.dumps(told))


class WitWorld(wit_world.WitWorld):  # type: ignore[misc]  # the base is there only inside the component
    """The component's exports."""

    def load(self, order: str) -> str:
        """Import the handler's module."""
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # type: ignore[union-attr]  # they are text files here
        return _told(lambda: _function.load(json.loads(order)))

    def invoke(self, event: str, call: str) -> str:
        """Call the handler."""
        return _told(lambda: _function.invoke(event, json.loads(call)))
