"""The commands about what was and what would be: plan, events, revisions, roll back, wait."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from beemesh.engine.v1.workload_pb2 import DeploymentConfig
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1.types_pb2 import ChangeAction, Manifest, PlannedChange

from services.cli import render
from services.cli.deploy import FALLBACKS
from services.cli.following import lasting
from services.cli.session import Session
from services.cli.sources import Source
from services.rpc.convert import duration

_PAGES_MAX = 100


async def plan(
    session: Session,
    source: Source,
    *,
    deployment_id: str,
    engine: str,
    fallback: str,
    config: DeploymentConfig,
    output: str,
) -> None:
    """Print what an apply of this would change."""
    request = pb2.PlanManifestRequest(
        deployment_id=deployment_id,
        manifest=Manifest(content=source.text),
        config=config,
        engine_id=engine,
        fallback_policy=FALLBACKS[fallback],
    )
    answer = await session.call(session.orchestrator.PlanManifest, request)
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
        return
    _say(f"{_action(answer.action)} on {answer.decision.selected_engine or 'no engine'}")
    if answer.changes:
        _say(changes(answer.changes))


def changes(items: Iterable[PlannedChange]) -> str:
    """One line each."""
    return render.table(("ACTION", "TARGET", "FIELD", "OLD", "NEW", "FORCES"), [_change(item) for item in items])


def _change(item: PlannedChange) -> Sequence[str]:
    return _action(item.action), item.target, item.field_path, item.old_value, item.new_value, item.forces


def _action(action: ChangeAction.ValueType) -> str:
    return ChangeAction.Name(action).removeprefix("CHANGE_ACTION_")


async def events(session: Session, name: str, *, follow: bool, output: str) -> None:
    """Print what happened to a deployment; with `follow` also what happens."""
    if follow:
        await _follow(session, name, output=output)
        return
    found = await kept(session, name)
    if output != "table":
        _say(render.formatted({"events": [render.as_data(item) for item in found]}, output))
    else:
        _say(render.table(("TIME", "REASON", "MESSAGE"), [_event(item) for item in found]))


async def _follow(session: Session, name: str, *, output: str) -> None:
    token = ""

    def opened() -> AsyncIterator[pb2.WatchDeploymentEventsResponse]:
        request = pb2.WatchDeploymentEventsRequest(name=name, resume_token=token)
        return session.stream(session.orchestrator.WatchDeploymentEvents, request)

    async for answer in lasting(opened):
        token = answer.resume_token
        data = json.dumps(render.as_data(answer.event), ensure_ascii=False)
        _say(data if output != "table" else "  ".join(_event(answer.event)))
        sys.stdout.flush()


async def kept(session: Session, name: str) -> list[pb2.DeploymentEvent]:
    """The kept events of a deployment, oldest first."""
    found: list[pb2.DeploymentEvent] = []
    request = pb2.ListDeploymentEventsRequest(name=name)
    for _ in range(_PAGES_MAX):
        page = await session.call(session.orchestrator.ListDeploymentEvents, request)
        found += page.events
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    return found


def _event(item: pb2.DeploymentEvent) -> Sequence[str]:
    return render.moment(item.event_time), item.reason, item.message


async def revisions(session: Session, name: str, *, output: str) -> None:
    """Print the kept revisions, newest first."""
    answer = await session.call(
        session.orchestrator.ListDeploymentRevisions, pb2.ListDeploymentRevisionsRequest(name=name)
    )
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
        return
    now = time.time()
    rows = [
        (
            str(item.revision),
            pb2.DeploymentState.Name(item.outcome).removeprefix("DEPLOYMENT_STATE_"),
            item.engine,
            render.age(item.create_time, now),
        )
        for item in answer.revisions
    ]
    _say(render.table(("REVISION", "OUTCOME", "ENGINE", "AGE"), rows))


async def rollback(session: Session, name: str, *, revision: int, wait: float) -> None:
    """Run an earlier revision again, and say what became of it."""
    request = pb2.RollbackDeploymentRequest(name=name, revision=revision)
    answer = await session.call(session.orchestrator.RollbackDeployment, request, wait=wait)
    item = answer.deployment
    _say(f"deployment/{item.deployment_id} rolled back: {render.state(item)}, revision {item.revision}")


async def wait(session: Session, name: str, *, states: Sequence[str], timeout: float) -> None:
    """Block until the deployment is in one of the states; raises what made it fail, or that it took too long."""
    wanted = [pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{state.upper()}") for state in states]
    request = pb2.WaitDeploymentRequest(name=name, states=wanted, timeout=duration(timeout))
    answer = await session.call(session.orchestrator.WaitDeployment, request, wait=timeout)
    _say(f"deployment/{answer.deployment.deployment_id} {render.state(answer.deployment)}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
