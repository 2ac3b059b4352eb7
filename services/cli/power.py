"""The commands that stop, start and restart a deployment as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli import render
from services.cli.session import Session
from services.rpc.convert import duration

_RUNS = (pb2.DEPLOYMENT_STATE_ACTIVE, pb2.DEPLOYMENT_STATE_SUCCEEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One of the three."""

    method: str
    request: Callable[..., Any]
    done: str
    """What is said when it is in one of `states`."""
    states: tuple[int, ...]


VERBS = {
    "stop": Verb(
        method="StopDeployment",
        request=pb2.StopDeploymentRequest,
        done="stopped",
        states=(pb2.DEPLOYMENT_STATE_STOPPED,),
    ),
    "start": Verb(method="StartDeployment", request=pb2.StartDeploymentRequest, done="started", states=_RUNS),
    "restart": Verb(method="RestartDeployment", request=pb2.RestartDeploymentRequest, done="restarted", states=_RUNS),
}


async def control(session: Session, name: str, verb: Verb, *, grace: float | None, wait: float) -> bool:
    """Do it, say what became of it; False: it is not done yet. `grace` in seconds; None: the manifest's."""
    request = verb.request(name=name) if grace is None else verb.request(name=name, grace_period=duration(grace))
    answer = await session.call(getattr(session.orchestrator, verb.method), request, wait=wait)
    item = answer.deployment
    if item.state in verb.states:
        sys.stdout.write(f"deployment/{item.deployment_id} {verb.done}: {render.state(item)}\n")
        return True
    why = f": {item.state_message}" if item.state_message else ""
    sys.stderr.write(
        f"error: {item.deployment_id} is not {verb.done} yet, it is {render.state(item)}{why}\n"
        f"  it goes on; see: beectl describe {item.deployment_id}\n"
    )
    return False
