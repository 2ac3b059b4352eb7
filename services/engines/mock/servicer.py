"""MockEngineService: how a test steers the mock; translates only."""

from __future__ import annotations

from typing import Any

from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import mock_engine_service_pb2 as pb
from beemesh.engine.v1 import mock_engine_service_pb2_grpc as pb_grpc
from beemesh.engine.v1 import workload_pb2 as wpb

from services.engines.convert import bad_field, require
from services.engines.deployer import RemoveOrder
from services.engines.engine import ExitStatus, HealthState, WorkloadState
from services.engines.listing import Listing
from services.engines.mock.backend import MockBackend
from services.engines.mock.faults import METHODS, Call, Fault, Script
from services.engines.records import Removal
from services.engines.servicer import EngineServicer
from services.errors import Code
from services.rpc.convert import from_duration, from_timestamp
from services.rpc.listing import fitting, paginate

_NAMES = frozenset(method.name for method in METHODS)

Context = Any
"""grpc.aio's context; handlers do not use it."""


class MockEngineServicer(pb_grpc.MockEngineServiceServicer):
    """Steers one mock engine. What it changes is visible in health, lists and watches when it returns."""

    def __init__(self, *, engine: EngineServicer, backend: MockBackend, script: Script) -> None:
        self._engine = engine
        self._backend = backend
        self._script = script

    async def SetMockBehavior(self, request: pb.SetMockBehaviorRequest, context: Context) -> pb.SetMockBehaviorResponse:
        """Replace the script; health UNSPECIFIED is HEALTHY."""
        self._script.set(
            health=_health(request.health),
            faults=[_fault(fault, f"faults[{index}]") for index, fault in enumerate(request.faults)],
        )
        await self._settle()
        return pb.SetMockBehaviorResponse()

    async def ListMockCalls(self, request: pb.ListMockCallsRequest, context: Context) -> pb.ListMockCallsResponse:
        """The calls of EngineService, in order of arrival."""
        page, token = paginate(
            self._script.calls(),
            key=_place,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        calls, token = fitting(page, token, key=_place, make=_call, size=pb.MockCall.ByteSize)
        return pb.ListMockCallsResponse(calls=calls, next_page_token=token)

    async def SetMockWorkload(self, request: pb.SetMockWorkloadRequest, context: Context) -> pb.SetMockWorkloadResponse:
        """Change what the backend has; state REMOVED lets it vanish as if removed behind the engine's back."""
        await self._backend.script(
            self._engine.parts.engine.node_id,
            require(request.workload_id, "workload_id"),
            state=_state(request.state),
            exit_status=_exit(request.exit_status) if request.HasField("exit_status") else None,
            lines=request.log_lines,
        )
        await self._engine.parts.keeper.refresh()
        return pb.SetMockWorkloadResponse()

    async def ResetMock(self, request: pb.ResetMockRequest, context: Context) -> pb.ResetMockResponse:
        """As new: no workloads, no calls, no script."""
        self._script.reset()
        await self._settle()
        keeper = self._engine.parts.keeper
        while workloads := (await keeper.list(Listing())).workloads:
            for workload in workloads:
                order = RemoveOrder(
                    workload_id=workload.workload_id,
                    removal=Removal(force=True, remove_volumes=True),
                    allow_missing=True,
                )
                await keeper.remove(order)
        return pb.ResetMockResponse()

    async def _settle(self) -> None:
        parts = self._engine.parts
        await parts.monitor.probe_now()
        parts.keeper.backend_changed()
        await parts.keeper.refresh()


def _place(call: Call) -> str:
    return f"{call.number:012}"


def _health(value: engine_pb.EngineHealthState.ValueType) -> HealthState:
    if value == engine_pb.ENGINE_HEALTH_STATE_UNSPECIFIED:
        return HealthState.HEALTHY
    try:
        return HealthState(value)
    except ValueError:
        raise bad_field("health", f"is no known state: {value}") from None


def _fault(fault: pb.MockFault, path: str) -> Fault:
    if fault.method not in _NAMES:
        raise bad_field(f"{path}.method", f"is no method of EngineService: {fault.method!r}")
    if fault.remaining < 0:
        raise bad_field(f"{path}.remaining", f"must not be negative, not {fault.remaining}")
    try:
        code = Code(fault.grpc_code) if fault.grpc_code else None
    except ValueError:
        raise bad_field(f"{path}.grpc_code", f"is no canonical code: {fault.grpc_code}") from None
    return Fault(
        method=fault.method,
        code=code,
        reason=fault.reason,
        remaining=fault.remaining or None,
        delay=from_duration(fault.delay, field=f"{path}.delay", high=3600.0),
        apply_then_fail=fault.apply_then_fail,
    )


def _state(value: wpb.WorkloadState.ValueType) -> WorkloadState | None:
    if value == wpb.WORKLOAD_STATE_UNSPECIFIED:
        return None
    try:
        return WorkloadState(value)
    except ValueError:
        raise bad_field("state", f"is no known state: {value}") from None


def _exit(status: wpb.ExitStatus) -> ExitStatus:
    return ExitStatus(
        exit_code=status.exit_code,
        signal=status.signal,
        oom_killed=status.oom_killed,
        finish_time=from_timestamp(status.finish_time) if status.HasField("finish_time") else None,
    )


def _call(call: Call) -> pb.MockCall:
    message = pb.MockCall(
        method=call.method,
        workload_id=getattr(call.request, "workload_id", ""),
        request_id=getattr(call.request, "request_id", ""),
    )
    if hasattr(call.request, "manifest"):
        message.manifest.CopyFrom(call.request.manifest)
    return message
