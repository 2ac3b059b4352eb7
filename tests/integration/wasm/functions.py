"""A running wasm engine, and functions on it, for the tests beside this file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import function_service_pb2 as function_pb
from beemesh.engine.v1 import function_service_pb2_grpc as function_grpc
from beemesh.engine.v1 import workload_pb2 as wpb
from google.protobuf.duration_pb2 import Duration

from services.errors import BeemeshError
from services.rpc.errors import translated
from tests.conformance.wasm_harness import wasm_engine
from tests.harness.engines import EngineClient
from tests.harness.errors import refusal

SECONDS = 60.0

ECHO = "def process(event):\n    return event\n"


def manifest(name: str, code: str | Mapping[str, Any] = ECHO, **spec: Any) -> str:
    """A function's manifest; `code` is Python, or what stands under spec.code."""
    lines = [
        "apiVersion: beemesh.io/v1",
        "kind: Function",
        f"metadata: {{name: {name}}}",
        "spec:",
    ]
    given = {"runtime": "python:3.14", "handler": "main.process", "memory": "128Mi", **spec}
    lines += [f"  {key}: {json.dumps(value)}" for key, value in given.items()]
    if isinstance(code, str):
        return "\n".join([*lines, "  code:", "    inline: |", indent(code, " " * 6)]) + "\n"
    return "\n".join([*lines, f"  code: {json.dumps(code)}"]) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """What the tests ask of an engine."""

    client: EngineClient
    stub: function_grpc.FunctionServiceStub

    async def deploy(self, name: str, code: str | Mapping[str, Any] = ECHO, **spec: Any) -> wpb.Workload:
        """Deploy, replacing; raises domain errors."""
        return await self.apply(name, manifest(name, code, **spec))

    async def apply(self, name: str, text: str, **fields: Any) -> wpb.Workload:
        """The same with a text of one's own."""
        request = pb.DeployWorkloadRequest(workload_id=name, manifest_id=name, allow_replace=True, **fields)
        request.manifest.content = text
        with translated():
            return (await self.client.engine.DeployWorkload(request, timeout=SECONDS)).workload

    async def call(
        self, name: str, event: object = None, *, timeout: float | None = None, deadline: float = SECONDS
    ) -> function_pb.InvokeFunctionResponse:
        """Invoke with an exact event; raises domain errors."""
        request = function_pb.InvokeFunctionRequest(workload_id=name, event_json=json.dumps(event).encode())
        if timeout is not None:
            request.timeout.CopyFrom(Duration(nanos=int(timeout * 1e9) % 10**9, seconds=int(timeout)))
        with translated():
            return await self.stub.InvokeFunction(request, timeout=deadline)

    async def result(self, name: str, event: object = None) -> Any:
        """What the handler returned."""
        return json.loads((await self.call(name, event)).result_json)

    async def refused(self, name: str, event: object = None, **fields: Any) -> BeemeshError:
        """Why a call failed."""
        return await refusal(self.call(name, event, **fields))

    async def get(self, name: str) -> wpb.Workload:
        """The workload."""
        request = pb.GetWorkloadRequest(workload_id=name)
        return (await self.client.engine.GetWorkload(request, timeout=SECONDS)).workload

    async def fact(self, name: str, key: str) -> Any:
        """One of the engine's own facts about it."""
        return dict((await self.get(name)).engine_details)[key]

    async def remove(self, name: str) -> None:
        """Remove it."""
        request = pb.RemoveWorkloadRequest(workload_id=name, allow_missing=True, force=True)
        await self.client.engine.RemoveWorkload(request, timeout=SECONDS)

    async def logs(self, name: str) -> list[pb.LogEntry]:
        """All its lines."""
        request = pb.StreamWorkloadLogsRequest(workload_id=name)
        stream = self.client.engine.StreamWorkloadLogs(request, timeout=SECONDS)
        return [entry async for message in stream for entry in message.entries]


@asynccontextmanager
async def functions(directory: Path, **settings: Any) -> AsyncIterator[Functions]:
    """An engine with its data in `directory`; the same one again is a restart."""
    async with wasm_engine(directory, **settings) as client:
        yield Functions(client=client, stub=function_grpc.FunctionServiceStub(client.channel))
