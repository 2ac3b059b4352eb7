"""The commands that change something, and the one that says what they would choose."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from beemesh.engine.v1.workload_pb2 import DeploymentConfig
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1.types_pb2 import ChangeAction, IssueSeverity, Manifest, ManifestIssue

from services.cli import render, report
from services.cli.session import Session
from services.cli.sources import Source, compose_id
from services.errors import BeemeshError, FieldViolation, InvalidArgument
from services.rpc.convert import duration

FALLBACKS = {
    "": pb2.FALLBACK_POLICY_UNSPECIFIED,
    "none": pb2.FALLBACK_POLICY_NONE,
    "compatible": pb2.FALLBACK_POLICY_COMPATIBLE,
    "any": pb2.FALLBACK_POLICY_ANY,
}
_DONE = {pb2.DEPLOYMENT_STATE_ACTIVE, pb2.DEPLOYMENT_STATE_SUCCEEDED}
_VERBS = {
    ChangeAction.CHANGE_ACTION_NONE: "unchanged",
    ChangeAction.CHANGE_ACTION_CREATE: "created",
    ChangeAction.CHANGE_ACTION_UPDATE_IN_PLACE: "updated",
    ChangeAction.CHANGE_ACTION_REPLACE: "replaced",
    ChangeAction.CHANGE_ACTION_REMOVE: "removed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """How manifests are to be applied."""

    deployment_id: str
    engine: str
    fallback: str
    config: DeploymentConfig
    wait: float
    """Seconds to wait until each runs; 0: only until it is accepted."""
    dry_run: bool


async def apply(session: Session, sources: Sequence[Source], how: Apply) -> bool:
    """Apply each in turn and say what became of it; one that fails does not keep the next one. True: all are well."""
    results = [await _apply_one(session, source, how) for source in sources]
    return all(results)


async def _apply_one(session: Session, source: Source, how: Apply) -> bool:
    try:
        answer = await _named(session, source, _request(source, how), how)
    except BeemeshError as error:
        sys.stderr.write(report.block(error, source=source.name) + "\n")
        return False
    for issue in answer.issues:
        sys.stderr.write(_issue(issue, source) + "\n")
    item = answer.deployment
    dry = " (dry run)" if how.dry_run else ""
    sys.stdout.write(
        f"deployment/{item.deployment_id} {_VERBS.get(answer.action, 'accepted')}{dry}: "
        f"{render.state(item)} on {render.engines_of(item) or 'no engine yet'}\n"
    )
    if answer.action != ChangeAction.CHANGE_ACTION_NONE:
        sys.stderr.writelines(f"note: {line}\n" for line in render.passed_over(item.decision))
    return how.dry_run or how.wait == 0 or item.state in _DONE or _late(item, how)


def _late(item: pb2.Deployment, how: Apply) -> bool:
    sys.stderr.write(f"error: {item.deployment_id} does not run after {how.wait:g}s\n{render.unsettled(item)}\n")
    return False


def _request(source: Source, how: Apply) -> pb2.ApplyManifestRequest:
    return pb2.ApplyManifestRequest(
        deployment_id=how.deployment_id,
        manifest=Manifest(content=source.text),
        config=how.config,
        engine_id=how.engine,
        fallback_policy=FALLBACKS[how.fallback],
        validate_only=how.dry_run,
        wait=duration(how.wait),
    )


async def _named(
    session: Session, source: Source, request: pb2.ApplyManifestRequest, how: Apply
) -> pb2.ApplyManifestResponse:
    """Apply; a Compose file without a name is applied under its folder's."""
    try:
        return await session.call(session.orchestrator.ApplyManifest, request, wait=how.wait)
    except InvalidArgument as error:
        reasons = {error.reason, *(violation.reason for violation in error.violations)}
        if "DEPLOYMENT_ID_REQUIRED" not in reasons or not _is_compose(source.text):
            raise
    request.deployment_id = compose_id(source.folder)
    return await session.call(session.orchestrator.ApplyManifest, request, wait=how.wait)


def _is_compose(text: str) -> bool:
    from services.manifests import Format, parse

    return parse(text).format is Format.COMPOSE


def _issue(issue: ManifestIssue, source: Source) -> str:
    severity = "warning" if issue.severity == IssueSeverity.ISSUE_SEVERITY_WARNING else "error"
    violation = FieldViolation(
        field_path=issue.field_path, message=f"{severity}: {issue.message}", line=issue.line, column=issue.column
    )
    return report.violation_line(violation, source=source.name)


async def select(
    session: Session, source: Source, *, engine: str, fallback: str, config: DeploymentConfig, output: str
) -> None:
    """Print which engine would be used, and the verdict on each."""
    request = pb2.SelectEngineRequest(
        manifest=Manifest(content=source.text),
        engine_id=engine,
        fallback_policy=FALLBACKS[fallback],
        config=config,
    )
    answer = await session.call(session.orchestrator.SelectEngine, request)
    if output != "table":
        sys.stdout.write(render.formatted(render.as_data(answer.decision), output) + "\n")
        return
    sys.stdout.write(f"selected: {answer.decision.selected_engine or 'none'}\n{render.decision(answer.decision)}\n")


async def delete(session: Session, name: str, *, volumes: bool, force: bool, missing_ok: bool, wait: float) -> bool:
    """Delete, wait until it is gone, and say so; False: it is not gone yet. With no wait, being accepted is enough."""
    request = pb2.DeleteDeploymentRequest(
        name=name, allow_missing=missing_ok, force=force, remove_volumes=volumes, wait=duration(wait)
    )
    answer = await session.call(session.orchestrator.DeleteDeployment, request, wait=wait)
    item, short = answer.deployment, render.short(name)
    if answer.HasField("deployment") and wait and item.state != pb2.DEPLOYMENT_STATE_DELETED:
        sys.stderr.write(f"error: {short} is not gone after {wait:g}s\n{render.unsettled(item)}\n")
        return False
    state = render.state(item).lower() if answer.HasField("deployment") else "not there"
    sys.stdout.write(f"deployment/{short} {state}\n")
    return True
