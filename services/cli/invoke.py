"""Calling a function: the event as it was given, to the byte, and the result as it came."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from services.cli.report import Failure
from services.cli.session import Session
from services.rpc.convert import duration

_LONGEST_SECONDS = 960.0
"""The longest timeout that a function can have, and its way there."""

_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked for."""

    deployment: str
    event: bytes
    """JSON text."""
    within: float | None
    """Seconds; None: the function's own timeout."""
    logs: bool
    """Whether what the call wrote goes to stderr."""


def event(data: str | None, path: str | None) -> bytes:
    """The event that `-d` or `-f` gives; raises Failure for what is no JSON, and for a file that cannot be read."""
    if data is not None:
        text, source = data.encode(errors="surrogateescape"), "-d"
    elif path is None:
        return b"{}"
    elif path == "-":
        text, source = sys.stdin.buffer.read(), "stdin"
    else:
        try:
            text, source = Path(path).read_bytes(), path
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}") from error
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text[:_SHOWN].decode(errors="replace")
        raise Failure(f"{source} is no JSON: {error} (it begins with {shown!r})") from None
    return text


async def invoke(session: Session, call: Call) -> None:
    """Print the result; with `logs` also what the call wrote and how long it took, on stderr."""
    request = pb.InvokeDeploymentRequest(name=call.deployment, event_json=call.event)
    if call.within is not None:
        request.timeout.CopyFrom(duration(call.within))
    wait = _LONGEST_SECONDS if call.within is None else call.within
    answer = (await session.call(session.orchestrator.InvokeDeployment, request, wait=wait)).invocation
    if call.logs:
        for entry in answer.logs:
            sys.stderr.write(f"{entry.text}\n")
        cold = ", cold start" if answer.cold_start else ""
        seconds = answer.duration.ToMicroseconds() / 1e6
        sys.stderr.write(f"invocation {answer.invocation_id}: {seconds * 1000:.1f} ms{cold}\n")
    sys.stdout.buffer.write(answer.result_json + b"\n")
    sys.stdout.flush()
