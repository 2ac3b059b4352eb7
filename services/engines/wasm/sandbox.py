"""Runs one function in this process: a guest that sees its own files, its declared environment, and nothing else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wasmtime import Engine, ExitTrap, Func, Linker, Module, Store, Trap, WasiConfig, WasmtimeError
from wasmtime import component as components

from services.engines.wasm import machine, promises

APP = "/app"
"""Where a Python function's code stands inside."""

RUN_INTERFACE = "wasi:cli/run@"
"""What a component exports that runs like a program."""

_DEPTH = 900
"""Of an event's nesting, about: where this interpreter's own limit is."""
_JAVASCRIPT = (".js", ".cjs", ".json")
_JAVASCRIPT_MAX = 16 << 20
_MEMORIES = 16
_INSTANCES = 256
_TABLES = 64
_TABLE_ELEMENTS = 1_000_000
_INTERFACES = tuple(f"wasi:{name}/" for name in ("cli", "clocks", "filesystem", "io", "random", "sockets"))
"""What a component may import; of these, files and sockets are there and closed."""
_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")

Output = Callable[[str, bytes], None]
"""Takes what the guest writes: `stdout` or `stderr`, and the bytes."""


class GuestProblem(Exception):
    """What went wrong inside, as facts: `kind` and `message`, and where they are known type, trace, file and line."""

    def __init__(self, facts: Mapping[str, Any], *, is_broken: bool = False) -> None:
        super().__init__(str(facts.get("message", "")))
        self.facts = dict(facts)
        self.is_broken = is_broken
        """The instance cannot be used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run; made from the facts of a `load` frame."""

    kind: str
    """python, javascript, module or component."""
    artifact: str
    """The path of the compiled code."""
    app: str
    """The directory of a Python function's code; empty for other kinds."""
    handler: str
    name: str
    env: Mapping[str, str]
    memory_bytes: int
    result_max: int
    """Bytes of a result."""


class Guest(Protocol):
    """An instance of a function."""

    def invoke(self, event: bytes, call: Mapping[str, Any]) -> bytes:
        """Call the handler; the result's JSON. Raises GuestProblem."""


def make_guest(engine: Engine, order: Order, output: Output) -> Guest:
    """An instance, loaded; raises GuestProblem."""
    kinds: Mapping[str, Callable[[Engine, Order, Output], Guest]] = {
        "python": PythonGuest,
        "javascript": JavaScriptGuest,
        "module": ModuleGuest,
        "component": ComponentGuest,
    }
    return kinds[order.kind](engine, order, output)


class PythonGuest:
    """The generic Python component with one function's code in it; lives for many calls."""

    def __init__(self, engine: Engine, order: Order, output: Output) -> None:
        self._store = _store(engine, order)
        wasi = _wasi(output)
        wasi.preopen_dir(order.app, APP, False)
        self._store.set_wasi(wasi)
        linker = components.Linker(engine)
        linker.add_wasip2()
        told = {"handler": order.handler, "name": order.name, "env": order.env, "memory_bytes": order.memory_bytes}
        with _telling():
            component = components.Component.deserialize_file(engine, order.artifact)
            instance = linker.instantiate(self._store, component)
            self._exports = {name: instance.get_func(self._store, name) for name in ("load", "invoke")}
            self._call("load", json.dumps(told))

    def invoke(self, event: bytes, call: Mapping[str, Any]) -> bytes:
        """Call the handler."""
        try:
            text = event.decode()
        except UnicodeDecodeError as error:
            raise GuestProblem({"kind": "event", "message": f"the event is not UTF-8: {error}"}) from None
        _check_depth(text)
        with _telling():
            return self._call("invoke", text, json.dumps(call)).encode()

    def _call(self, name: str, *arguments: str) -> str:
        function = self._exports[name]
        if function is None:
            raise GuestProblem({"kind": "trap", "message": f"the runner has no {name}"}, is_broken=True)
        answer = function(self._store, *arguments)
        function.post_return(self._store)
        if answer.tag == "ok":
            return str(answer.payload)
        facts = json.loads(answer.payload)
        raise GuestProblem(facts, is_broken=facts.get("kind") == "memory")


class JavaScriptGuest:
    """The generic JavaScript component with one function's code in it; lives for many calls."""

    def __init__(self, engine: Engine, order: Order, output: Output) -> None:
        engine = machine.make_engine(has_promises=True)
        self._store = _store(engine, order)
        self._store.set_wasi(_wasi(output))
        linker = components.Linker(engine)
        linker.add_wasip2()
        with linker.root() as root:
            root.add_func("write", lambda _, stream, text: output(stream, text.encode(errors="replace")))
        told = {"handler": order.handler, "name": order.name, "env": order.env, "memory_bytes": order.memory_bytes}
        told |= {"files": _sources(Path(order.app)), "seed": list(memoryview(os.urandom(16)).cast("i"))}
        with _telling():
            component = components.Component.deserialize_file(engine, order.artifact)
            self._instance = linker.instantiate(self._store, component)
            self._call("load", json.dumps(told))

    def invoke(self, event: bytes, call: Mapping[str, Any]) -> bytes:
        """Call the handler."""
        try:
            text = event.decode()
        except UnicodeDecodeError as error:
            raise GuestProblem({"kind": "event", "message": f"the event is not UTF-8: {error}"}) from None
        _check_depth(text)
        with _telling():
            return self._call("invoke", text, json.dumps(call)).encode(errors="replace")

    def _call(self, name: str, *arguments: str) -> str:
        answer = self._ask(name, *arguments)
        while answer.tag == "wait":
            time.sleep(answer.payload)
            promises.run(self._function("tick"), self._store)
            answer = self._ask("settle")
        if answer.tag == "done":
            return str(answer.payload)
        facts = json.loads(answer.payload)
        raise GuestProblem(facts, is_broken=facts.get("kind") == "memory")

    def _ask(self, name: str, *arguments: str) -> Any:
        function = self._function(name)
        answer = function(self._store, *arguments)
        function.post_return(self._store)
        return answer

    def _function(self, name: str) -> components.Func:
        function = self._instance.get_func(self._store, name)
        if function is None:
            raise GuestProblem({"kind": "trap", "message": f"the runner has no {name}"}, is_broken=True)
        return function


def _sources(directory: Path) -> dict[str, str]:
    """What JavaScript can require, by name; raises GuestProblem."""
    found, size = dict[str, str](), 0
    for path in sorted(directory.rglob("*")):
        if path.suffix in _JAVASCRIPT and path.is_file():
            size += path.stat().st_size
            if size > _JAVASCRIPT_MAX:
                message = f"the code has more than {_JAVASCRIPT_MAX >> 20} MiB of JavaScript"
                raise GuestProblem({"kind": "load", "message": message})
            found[str(path.relative_to(directory))] = path.read_text(errors="replace")
    return found


def _check_depth(text: str) -> None:
    """Raise GuestProblem for an event nested so deeply that reading it would overflow the guest's stack."""
    if text.count("[") + text.count("{") <= _DEPTH:
        return
    try:
        json.loads(text)
    except RecursionError:
        message = f"the event is not JSON that can be read: it is nested deeper than {_DEPTH}"
        raise GuestProblem({"kind": "event", "message": message}) from None
    except ValueError:
        return  # the guest says what is wrong with it


class ModuleGuest:
    """A user's core module (WASI preview 1): each call runs it anew, the event on stdin, the result on stdout."""

    def __init__(self, engine: Engine, order: Order, output: Output) -> None:
        self._engine, self._order, self._output = engine, order, output
        with _telling():
            self._module = Module.deserialize_file(engine, order.artifact)
        _check_imports(item.module for item in self._module.imports if item.module not in _MODULES)
        names = [export.name for export in self._module.exports]
        if order.handler not in names:
            raise _no_handler(order.handler, names)

    def invoke(self, event: bytes, call: Mapping[str, Any]) -> bytes:
        """Run it."""
        store, result = _store(self._engine, self._order), _Result(self._order.result_max)
        linker = Linker(self._engine)
        with _stdin(event) as path, _telling():
            store.set_wasi(_wasi(result.and_stderr(self._output), env=_env(self._order, call), stdin=path))
            linker.define_wasi()
            exports = linker.instantiate(store, self._module).exports(store)
            function = exports[self._order.handler]
            if not isinstance(function, Func):
                raise _no_handler(self._order.handler, [])
            with _exiting():
                function(store)
        return result.json()


class ComponentGuest:
    """A user's component with `wasi:cli/run`: each call runs it anew, the event on stdin, the result on stdout."""

    def __init__(self, engine: Engine, order: Order, output: Output) -> None:
        self._engine, self._order, self._output = engine, order, output
        with _telling():
            self._component = components.Component.deserialize_file(engine, order.artifact)
            names = list(self._component.type.exports(engine))
            imports = list(self._component.type.imports(engine))
        _check_imports(name for name in imports if not name.startswith(_INTERFACES))
        runs = [name for name in names if name.startswith(RUN_INTERFACE)]
        if not runs or order.handler != "run":
            raise _no_handler(order.handler, ["run"] if runs else [], what="component")
        self._interface = runs[0]

    def invoke(self, event: bytes, call: Mapping[str, Any]) -> bytes:
        """Run it."""
        store, result = _store(self._engine, self._order), _Result(self._order.result_max)
        linker = components.Linker(self._engine)
        with _stdin(event) as path, _telling():
            store.set_wasi(_wasi(result.and_stderr(self._output), env=_env(self._order, call), stdin=path))
            linker.add_wasip2()
            instance = linker.instantiate(store, self._component)
            interface = instance.get_export_index(store, self._interface)
            index = instance.get_export_index(store, "run", interface)
            function = instance.get_func(store, index) if index else None
            if function is None:
                raise _no_handler("run", [], what="component")
            with _exiting():
                answer = function(store)
                function.post_return(store)
                if getattr(answer, "tag", "ok") == "err":
                    raise _exited(1)
        return result.json()


class _Result:
    """What a program writes on stdout: its result, kept up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def and_stderr(self, output: Output) -> Output:
        """Stdout comes here, stderr goes to `output`."""

        def take(stream: str, data: bytes) -> None:
            if stream == "stdout":
                self._data += data[: self._limit + 1 - len(self._data)]
            else:
                output(stream, data)

        return take

    def json(self) -> bytes:
        """The result; raises GuestProblem when it is no JSON. One that is too long is cut a byte beyond the limit."""
        if len(self._data) > self._limit:
            return bytes(self._data)
        try:
            json.loads(self._data or b"null")
        except (ValueError, RecursionError) as error:
            raise GuestProblem({"kind": "result", "message": f"what it wrote on stdout is not JSON: {error}"}) from None
        return bytes(self._data).strip() or b"null"


def _check_imports(strange: Iterable[str]) -> None:
    """Raise GuestProblem for what a function asks of its machine and does not get."""
    if found := sorted(set(strange)):
        message = f"it imports {', '.join(found[:10])}, which functions do not get: there is no network, and no host"
        raise GuestProblem({"kind": "load", "message": message})


def _store(engine: Engine, order: Order) -> Store:
    store = Store(engine)
    store.set_limits(
        memory_size=order.memory_bytes,
        memories=_MEMORIES,
        instances=_INSTANCES,
        tables=_TABLES,
        table_elements=_TABLE_ELEMENTS,
    )
    return store


def _wasi(output: Output, *, env: Mapping[str, str] | None = None, stdin: str = "") -> WasiConfig:
    """No arguments, no network, no directory, no environment but this."""
    wasi = WasiConfig()
    wasi.stdout_custom = lambda data: output("stdout", data)
    wasi.stderr_custom = lambda data: output("stderr", data)
    wasi.env = list((env or {}).items())
    if stdin:
        wasi.stdin_file = stdin
    return wasi


def _env(order: Order, call: Mapping[str, Any]) -> dict[str, str]:
    """A program learns of its invocation from its environment."""
    told = {"BEEMESH_INVOCATION_ID": call["id"], "BEEMESH_FUNCTION_NAME": order.name}
    return {**order.env, **told, "BEEMESH_DEADLINE": f"{call['deadline']:.3f}"}


@contextmanager
def _stdin(event: bytes) -> Iterator[str]:
    """A file in memory with the event: the path that it can be opened by."""
    descriptor = os.memfd_create("event", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(event)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def _exiting() -> Iterator[None]:
    """A program that exits with 0 has succeeded."""
    try:
        yield
    except ExitTrap as error:
        if error.code:
            raise _exited(error.code) from None


def _exited(code: int) -> GuestProblem:
    return GuestProblem({"kind": "raised", "type": "ExitStatus", "message": f"the program exited with {code}"})


@contextmanager
def _telling() -> Iterator[None]:
    """What the machine itself refuses or traps, as a problem; the instance is lost."""
    try:
        yield
    except (WasmtimeError, Trap) as error:
        text = str(error)
        kind = "memory" if "memory" in text and "limit" in text else "trap"
        reason = [line.strip() for line in text.splitlines() if line.strip()]
        facts = {"kind": kind, "type": "Trap", "message": reason[-1] if reason else "", "trace": text}
        raise GuestProblem(facts, is_broken=True) from None


def _no_handler(handler: str, known: list[str], *, what: str = "module") -> GuestProblem:
    has = f"; it exports {', '.join(known[:20])}" if known else ""
    return GuestProblem({"kind": "handler", "message": f"the {what} has no function {handler!r} to run{has}"})
