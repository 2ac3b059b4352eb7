"""Calls of functions, passed on to the engine that runs them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from beemesh.engine.v1 import function_service_pb2 as function_pb
from beemesh.engine.v1 import function_service_pb2_grpc as function_grpc
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.errors import FailedPrecondition, Unavailable
from services.orchestrator.model import Deployment
from services.orchestrator.steps import unreachable
from services.rpc.deadline import budget
from services.rpc.errors import translated

KIND = "Function"

_SECONDS = 3600.0
"""Beyond the longest timeout of a function, its waiting in line and its cold start."""


def check_function(record: Deployment) -> None:
    """Raise FailedPrecondition(NOT_A_FUNCTION) for a deployment of anything else."""
    if KIND not in record.wish.kinds:
        raise FailedPrecondition(
            f"deployment {record.deployment_id!r} is no function: its kind is {', '.join(record.wish.kinds)}",
            reason="NOT_A_FUNCTION",
            metadata={"deployment": f"deployments/{record.deployment_id}"},
        )


class Invoker:
    """`channel` gives the channel to an engine by id."""

    def __init__(self, channel: Callable[[str], grpc.aio.Channel]) -> None:
        self._channel = channel
        self._stubs: dict[str, tuple[grpc.aio.Channel, function_grpc.FunctionServiceStub]] = {}
        """By engine, with the channel that each is of: making one takes longer than a call."""

    async def invoke(
        self, engine_id: str, workload_id: str, request: pb.InvokeDeploymentRequest
    ) -> function_pb.InvokeFunctionResponse:
        """The engine's answer, as it is; raises what it raises. A caller who leaves ends the call."""
        asked = function_pb.InvokeFunctionRequest(workload_id=workload_id)
        match request.WhichOneof("payload"):
            case "event":
                asked.event.CopyFrom(request.event)
            case "event_json":
                asked.event_json = request.event_json
        if request.HasField("timeout"):
            asked.timeout.CopyFrom(request.timeout)
        function_stub = self._stub(engine_id)
        try:
            with translated():
                return await function_stub.InvokeFunction(asked, timeout=budget(_SECONDS))
        except Unavailable as error:
            if error.reason == "RPC_UNAVAILABLE":
                raise unreachable(engine_id) from error
            raise

    def _stub(self, engine_id: str) -> function_grpc.FunctionServiceStub:
        channel = self._channel(engine_id)
        known = self._stubs.get(engine_id)
        if known is None or known[0] is not channel:  # an engine that registered anew has another
            known = self._stubs[engine_id] = (channel, function_grpc.FunctionServiceStub(channel))
        return known[1]
