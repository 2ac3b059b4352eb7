"""Asks a service over its socket whether it is ready to serve, and whether it lives at all."""

from __future__ import annotations

from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.node.plan import Process
from services.rpc.client import connect
from services.rpc.deadline import budget

PROBE_SECONDS = 1.0


class Readiness:
    """One channel per service, kept over its restarts; `async with` closes them."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def answers(self, process: Process) -> bool:
        """Whether its health says SERVING for `readiness`; False as well when it does not answer in time."""
        try:
            status = await self._ask(process, "readiness", PROBE_SECONDS)
        except grpc.aio.AioRpcError:
            return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    async def lives(self, process: Process, seconds: float) -> bool:
        """Whether it answers anything at all within `seconds`, be it that it does not serve."""
        try:
            await self._ask(process, "liveness", seconds)
        except grpc.aio.AioRpcError as error:
            return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    async def _ask(self, process: Process, name: str, seconds: float) -> int:
        channel = self._channels.get(process.name)
        if channel is None:
            channel = self._channels[process.name] = connect(f"unix:{process.socket}")
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=budget(seconds))  # type: ignore[attr-defined]
        return int(answer.status)
