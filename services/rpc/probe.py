"""`python -m services.rpc.probe TARGET [SERVICE]`: exit code 0 if TARGET says that SERVICE (default readiness) serves.

For health checks of containers.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.rpc.client import connect
from services.rpc.deadline import budget

PROBE_SECONDS = 3.0


async def serves(target: str, service: str) -> bool:
    """Whether `target` (`unix:/path` or `host:port`) says SERVING in time."""
    async with connect(target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(  # type: ignore[attr-defined]  # the stubs know only the synchronous channel
                health_pb2.HealthCheckRequest(service=service), timeout=budget(PROBE_SECONDS)
            )
        except grpc.aio.AioRpcError as error:
            sys.stderr.write(f"{target}: {error.code().name}: {error.details()}\n")
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: list[str]) -> int:
    """The exit code."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m services.rpc.probe TARGET [SERVICE]\n")
        return 2
    target, service = [*arguments, "readiness"][:2]
    return 0 if asyncio.run(serves(target, service)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
