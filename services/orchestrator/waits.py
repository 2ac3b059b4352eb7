"""How long a call waits, when its wait is over, and failures as errors that name their deployment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from services import identity
from services.errors import Aborted, BeemeshError, NotFound
from services.orchestrator.model import Action, Deployment, State, Step
from services.orchestrator.requests import Accepted
from services.orchestrator.views import View
from services.rpc.convert import from_duration

WAIT_MAX = 3600.0
_DEADLINE_MARGIN = 0.25
"""Seconds kept back so that the answer is out before the caller's deadline."""


def id_of(name: str) -> str:
    """The deployment id in a resource name; raises InvalidArgument."""
    return identity.check_deployment_id(identity.bare(name, "deployments"), field="name")


def wait_of(request: pb.ApplyManifestRequest | pb.DeleteDeploymentRequest, context: Any) -> float:
    """Seconds to wait: as asked, else until the caller's deadline."""
    return bounded(request.wait if request.HasField("wait") else None, "wait", context)


def bounded(asked: Duration | None, field: str, context: Any) -> float:
    """Seconds to wait: as asked, else as long as may be; in any case until the caller's deadline."""
    seconds = WAIT_MAX if asked is None else from_duration(asked, field=field, high=WAIT_MAX)
    remaining = context.time_remaining()
    return seconds if remaining is None else min(seconds, max(0.0, remaining - _DEADLINE_MARGIN))


def reached(view: View, wanted: Collection[State], generation: int) -> bool:
    """Whether the wait is over; raises what made the deployment fail, or Aborted when another generation took over."""
    if view.record.generation != generation:
        raise Aborted(
            f"deployment {view.record.deployment_id!r} is at generation {view.record.generation}, not {generation}",
            reason="SUPERSEDED",
            metadata={"generation": str(view.record.generation)},
        )
    if view.state in wanted:
        return True
    if view.state is State.DELETED:
        raise NotFound(f"deployment {view.record.deployment_id!r} was deleted", reason="DEPLOYMENT_NOT_FOUND")
    raise_failure(view.record)
    return False


def done(accepted: Accepted, record: Deployment) -> Action:
    """What was done: NONE as accepted, else as the engine did it."""
    same = record.generation == accepted.deployment.generation
    return accepted.action if accepted.action is Action.NONE or not same else record.action


def raise_superseded(record: Deployment, generation: int) -> None:
    """What was waited for will not come: another apply or a deletion has taken over. Raises Aborted."""
    leaving = record.step in (Step.REMOVE, Step.GONE)
    if record.generation == generation and not leaving:
        return
    what = "is being deleted" if leaving else f"is at generation {record.generation}, not {generation}"
    raise carrying(
        Aborted(
            f"deployment {record.deployment_id!r} {what}: another request came after this one", reason="SUPERSEDED"
        ),
        record,
    )


def raise_failure(record: Deployment) -> None:
    """A failed (or waiting) operation is an RPC error that names the deployment."""
    if record.failure is not None and record.state in (State.FAILED, State.DEGRADED, State.ROLLED_BACK):
        raise carrying(record.failure.error(), record)


def carrying(error: BeemeshError, record: Deployment) -> BeemeshError:
    """The error, with the deployment that it is about."""
    error.metadata |= {
        "deployment": f"deployments/{record.deployment_id}",
        "state": record.state.name,
        "generation": str(record.generation),
    }
    return error
