"""Scripted misbehaviour: an EngineService that records every call and fails, delays or falls sick as it was told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import engine_service_pb2_grpc as pb_grpc
from google.protobuf.descriptor import MethodDescriptor

from services.engines.engine import Health, HealthState
from services.engines.streams import closed_after
from services.errors import BY_CODE, BeemeshError, Code

CALLS_MAX = 2_000
METHODS: Sequence[MethodDescriptor] = pb.DESCRIPTOR.services_by_name["EngineService"].methods


@dataclass(slots=True, kw_only=True)
class Fault:
    """One scripted fault of one method."""

    method: str
    code: Code | None = None
    """None: only the delay."""
    reason: str = ""
    remaining: int | None = None
    """How many calls it still applies to; None: all."""
    delay: float = 0.0
    """Seconds: before the work, or, with `apply_then_fail`, between the work and the error."""
    apply_then_fail: bool = False

    def error(self) -> BeemeshError | None:
        """What the caller gets instead of an answer."""
        if self.code is None:
            return None
        reason = self.reason or "SCRIPTED_FAULT"
        return BY_CODE[self.code](f"scripted fault of {self.method}", reason=reason, metadata={"scripted": "true"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that was received."""

    number: int
    """From 1, in order of arrival."""
    method: str
    request: Any
    """The request message; None for a stream of them."""


class Script:
    """What the mock was told to do, and what it was asked; in memory only."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._calls: deque[Call] = deque(maxlen=CALLS_MAX)
        self._count = 0
        self._health = HealthState.HEALTHY

    def set(self, *, health: HealthState, faults: Sequence[Fault]) -> None:
        """Replace the whole script."""
        self._health, self._faults = health, list(faults)

    def reset(self) -> None:
        """As new."""
        self.set(health=HealthState.HEALTHY, faults=())
        self._calls.clear()

    def health(self) -> Health:
        """The scripted health of the backend."""
        if self._health is HealthState.HEALTHY:
            return Health(state=HealthState.HEALTHY, attributes={"backend_version": "1"})
        return Health(state=self._health, reason="BACKEND_UNREACHABLE", message=f"scripted to be {self._health.name}")

    def calls(self) -> Sequence[Call]:
        """The last calls, oldest first."""
        return tuple(self._calls)

    def receive(self, method: str, request: Any) -> Fault | None:
        """Note a call; returns the fault that applies to it, the first of its method that is not used up."""
        self._count += 1
        self._calls.append(Call(number=self._count, method=method, request=request))
        for fault in self._faults:
            if fault.method != method or fault.remaining == 0:
                continue
            if fault.remaining is not None:
                fault.remaining -= 1
            return fault
        return None


class ScriptedServicer:
    """Every EngineService method of `inner`, under the script; to be added to a server in its place."""

    def __init__(self, inner: pb_grpc.EngineServiceServicer, script: Script) -> None:
        for method in METHODS:
            make = _streaming if method.server_streaming else _unary
            setattr(self, method.name, make(method, getattr(inner, method.name), script))


def _unary(method: MethodDescriptor, behavior: Callable[[Any, Any], Awaitable[Any]], script: Script) -> Any:
    async def call(request: Any, context: Any) -> Any:
        fault = script.receive(method.name, request)
        if fault is None:
            return await behavior(request, context)
        if not fault.apply_then_fail:
            await _strike(fault)
        answer = await behavior(request, context)
        if fault.apply_then_fail:
            await _strike(fault)
        return answer

    return call


def _streaming(method: MethodDescriptor, behavior: Callable[[Any, Any], AsyncIterator[Any]], script: Script) -> Any:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        fault = script.receive(method.name, None if method.client_streaming else request)
        if fault is not None and not fault.apply_then_fail:
            await _strike(fault)
        async with closed_after(behavior(request, context)) as answers:
            async for answer in answers:
                yield answer
        if fault is not None and fault.apply_then_fail:
            await _strike(fault)

    return call


async def _strike(fault: Fault) -> None:
    await asyncio.sleep(fault.delay)
    error = fault.error()
    if error is not None:
        raise error
