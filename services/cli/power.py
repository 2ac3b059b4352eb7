"""The commands that stop, start and restart a deployment as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli import render
from services.cli.session import Session
from services.errors import DeadlineExceeded
from services.rpc.convert import duration

_RUNS = (pb2.DEPLOYMENT_STATE_ACTIVE, pb2.DEPLOYMENT_STATE_SUCCEEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One of the three."""

    method: str
    request: Callable[..., Any]
    done: str
    """What is said when it is in one of `states`."""
    states: tuple[pb2.DeploymentState.ValueType, ...]


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
    item = await _settled(session, answer.deployment, verb, wait=wait)
    if item.state in verb.states:
        sys.stdout.write(f"deployment/{item.deployment_id} {verb.done}: {render.state(item)}\n")
        return True
    sys.stderr.write(f"error: {item.deployment_id} is not {verb.done} yet\n{render.unsettled(item)}\n")
    return False


async def _settled(session: Session, item: pb2.Deployment, verb: Verb, *, wait: float) -> pb2.Deployment:
    """The deployment in one of the verb's states, or as it stands when the wait is over: what runs may not be ready."""
    if item.state in verb.states or not wait:
        return item
    request = pb2.WaitDeploymentRequest(
        name=item.deployment_id, generation=item.generation, states=verb.states, timeout=duration(wait)
    )
    try:
        return (await session.call(session.orchestrator.WaitDeployment, request, wait=wait)).deployment
    except DeadlineExceeded:
        return item
