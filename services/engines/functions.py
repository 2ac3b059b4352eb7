"""FunctionService of the engines that run functions: translates between the wire and the keeper."""

from __future__ import annotations

import json
import math
from typing import Any

from beemesh.engine.v1 import function_service_pb2 as pb
from beemesh.engine.v1 import function_service_pb2_grpc as pb_grpc
from google.protobuf.struct_pb2 import Value

from services.engines.convert import bad_field, entry_to, require
from services.engines.engine import Invocation, Invoked
from services.engines.servicer import EngineServicer
from services.errors import FieldViolation, InvalidArgument
from services.rpc.convert import duration, from_duration

FUNCTION_SERVICE = pb.DESCRIPTOR.services_by_name["FunctionService"].full_name

_EXACT = 2**53
"""Up to here a double holds every integer."""

_TIMEOUT_MAX = 86400.0

Context = Any
"""grpc.aio's context; handlers do not use it."""


class FunctionServicer(pb_grpc.FunctionServiceServicer):
    """Serves what `engine` serves, for as long as it does."""

    def __init__(self, engine: EngineServicer) -> None:
        self._engine = engine

    async def InvokeFunction(self, request: pb.InvokeFunctionRequest, context: Context) -> pb.InvokeFunctionResponse:  # noqa: N802 - the contract names it
        """Call the handler."""
        workload_id = require(request.workload_id, "workload_id")
        timeout = None
        if request.HasField("timeout"):
            timeout = from_duration(request.timeout, field="timeout", low=0.001, high=_TIMEOUT_MAX)
        invocation = Invocation(event=event_of(request), timeout=timeout)
        invoked = await self._engine.parts.keeper.inside.invoke(workload_id, invocation)
        return response_of(invoked, as_value=request.WhichOneof("payload") == "event")


def event_of(request: pb.InvokeFunctionRequest) -> bytes:
    """The event as JSON text; raises InvalidArgument (EVENT_REQUIRED, BAD_FIELD)."""
    match request.WhichOneof("payload"):
        case "event":
            return json.dumps(plain(request.event), ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        case "event_json":
            return request.event_json
    message = "event or event_json is required; the handler is called with it"
    raise InvalidArgument(
        message, reason="EVENT_REQUIRED", violations=[FieldViolation(field_path="event", message=message)]
    )


def response_of(invoked: Invoked, *, as_value: bool) -> pb.InvokeFunctionResponse:
    """The answer; `as_value` where it can be told so exactly."""
    response = pb.InvokeFunctionResponse(
        logs=[entry_to(line) for line in invoked.logs],
        invocation_id=invoked.invocation_id,
        cold_start=invoked.cold_start,
        duration=duration(invoked.duration),
    )
    if as_value:
        try:
            fill(response.result, json.loads(invoked.result))
        except OverflowError:
            response.ClearField("result")
        else:
            return response
    response.result_json = invoked.result
    return response


def plain(value: Value) -> object:
    """A Value as JSON-shaped data: integral numbers within 2^53 are integers. Raises InvalidArgument for NaN."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise bad_field("event", f"{number} is no JSON number")
            return int(number) if number.is_integer() and abs(number) <= _EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [plain(item) for item in value.list_value.values]
        case "struct_value":
            return {key: plain(item) for key, item in value.struct_value.fields.items()}
    return None


def fill(value: Value, data: object) -> None:
    """Write JSON-shaped data into a Value; raises OverflowError for a number that it cannot hold exactly."""
    match data:
        case None:
            value.null_value = 0  # type: ignore[assignment]  # the enum has one member, 0
        case bool():
            value.bool_value = data
        case int() | float():
            if isinstance(data, int) and abs(data) > _EXACT:
                raise OverflowError(f"{data} is no double")
            value.number_value = data
        case str():
            value.string_value = data
        case list():
            value.list_value.SetInParent()
            for item in data:
                fill(value.list_value.values.add(), item)
        case dict():
            value.struct_value.SetInParent()
            for key, item in data.items():
                fill(value.struct_value.fields[key], item)
