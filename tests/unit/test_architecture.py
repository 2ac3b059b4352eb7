"""What holds for all code, read from the code: calls have deadlines, and services meet only on the wire."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

import pytest
from beemesh.engine.v1 import (
    engine_service_pb2,
    function_service_pb2,
    image_service_pb2,
    mock_engine_service_pb2,
)
from beemesh.orchestrator.v1 import orchestrator_service_pb2
from beemesh.provider.v1 import provider_service_pb2
from beemesh.registry.v1 import registry_service_pb2
from grpc_health.v1 import health_pb2

SERVICES = Path(__file__).parents[2] / "services"
SOURCES = sorted(SERVICES.rglob("*.py"))

RPCS = {
    method.name
    for module in (
        engine_service_pb2,
        function_service_pb2,
        image_service_pb2,
        mock_engine_service_pb2,
        orchestrator_service_pb2,
        provider_service_pb2,
        registry_service_pb2,
        health_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
RAW = {"unary_unary", "unary_stream", "stream_unary", "stream_stream"}
ISLANDS = ("registry", "provider", "orchestrator", "engines", "node", "cli")
ENGINES = sorted(path.parent.name for path in SERVICES.glob("engines/*/__main__.py"))


def calls_without_timeout(tree: ast.AST) -> Iterator[int]:
    """Lines that call an RPC, through a stub or a channel, and name no timeout."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_rpc(node.func):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            timeout = given.get("timeout")
            if timeout is None or (isinstance(timeout, ast.Constant) and timeout.value is None):
                yield node.lineno


def _is_rpc(called: ast.expr) -> bool:
    """`stub.Method`, `self._stub.Method`, `SomeStub(channel).Method` or `channel.unary_unary(path)`."""
    if isinstance(called, ast.Call):
        return isinstance(called.func, ast.Attribute) and called.func.attr in RAW
    if not isinstance(called, ast.Attribute) or called.attr not in RPCS:
        return False
    return _name(called.value).lower().endswith("stub")


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func):
            return _name(func)
    return ""


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, with what is taken from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_call_of_another_service_names_its_timeout() -> None:
    """No RPC is called without a deadline."""
    found = {
        str(path.relative_to(SERVICES)): list(calls_without_timeout(ast.parse(path.read_text()))) for path in SOURCES
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_there_are_calls_to_check() -> None:
    """The check above sees the calls that there are: it would otherwise pass for want of any."""
    watcher = ast.parse((SERVICES / "registry/watcher.py").read_text())
    assert sum(isinstance(node, ast.Call) and _is_rpc(node.func) for node in ast.walk(watcher)) == 4


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("stub.GetEngine(r)", [1]),
        ("self._engine_stub.GetWorkload(r, metadata=m)", [1]),
        ("RegistryServiceStub(channel).GetEngine(r)", [1]),
        ("x\nawait pb_grpc.HealthStub(c).Check(r, timeout=None)", [2]),
        ("channel.stream_stream(path)(metadata=m)", [1]),
        ("stub.GetEngine(r, timeout=budget(1))", []),
        ("channel.stream_stream(path, decode)(timeout=3)", []),
        ("self._registry.GetEngine(r)", []),
        ("stub.helper(r)", []),
    ],
)
def test_the_check_catches_a_call_without_timeout(code: str, lines: list[int]) -> None:
    """Each way to call an RPC is recognised, with and without its timeout."""
    assert list(calls_without_timeout(ast.parse(code))) == lines


@pytest.mark.parametrize("island", ISLANDS)
def test_a_service_imports_no_other_service(island: str) -> None:
    """Services meet on the wire, never by import."""
    others = tuple(f"services.{other}." for other in ISLANDS if other != island)
    found = {
        f"{path.relative_to(SERVICES)}: {name}"
        for path in sorted((SERVICES / island).rglob("*.py"))
        for name in imported(ast.parse(path.read_text()))
        if f"{name}.".startswith(others)
    }
    assert found == set()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_imports_no_other_engine(engine: str) -> None:
    """Engines know what they share, never each other."""
    others = tuple(f"services.engines.{other}." for other in ENGINES if other != engine)
    found = {
        f"{path.relative_to(SERVICES)}: {name}"
        for path in sorted((SERVICES / "engines" / engine).rglob("*.py"))
        for name in imported(ast.parse(path.read_text()))
        if f"{name}.".startswith(others)
    }
    assert found == set()


EDGES = {
    "registry": {"__main__", "servicer", "settings", "watcher", "wire"},
    "provider": {"__main__", "servicer", "settings", "wire", "applied"},
    "orchestrator": {
        "__main__",
        "convert",
        "engines",
        "following",
        "invoke",
        "providers",
        "relay",
        "servicer",
        "settings",
        "waits",
    },
}
"""Modules that speak gRPC, or only hold settings; every other module of these services is a core."""


def listed(contract: str) -> set[str]:
    """The source modules of an import contract."""
    parser = configparser.ConfigParser()
    parser.read(SERVICES.parent / ".importlinter")
    return set(parser[f"importlinter:contract:{contract}"]["source_modules"].split())


@pytest.mark.parametrize("service", sorted(EDGES))
def test_every_module_that_is_no_edge_is_held_to_know_no_grpc(service: str) -> None:
    """A new module of a service is a core, under the import contract, unless it is named an edge here."""
    modules = {path.stem for path in (SERVICES / service).glob("*.py")} - {"__init__"} - EDGES[service]
    assert {f"services.{service}.{module}" for module in modules} <= listed("cores")


def test_every_shared_module_of_engines_is_held_to_know_no_engine() -> None:
    """A new module beside the engines is under the import contract."""
    modules = {path.stem for path in (SERVICES / "engines").glob("*.py")} - {"__init__"}
    assert {f"services.engines.{module}" for module in modules} <= listed("engine-frame")
