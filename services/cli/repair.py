"""The commands about the gap between what was applied and what runs: drift, reconcile, export."""

from __future__ import annotations

import sys

from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli import history, render, report
from services.cli.session import Session
from services.errors import FieldViolation


async def drift(session: Session, name: str, *, output: str) -> bool:
    """Print what a repair would change; True: what runs is what was applied."""
    answer = await session.call(session.orchestrator.CheckDrift, pb2.CheckDriftRequest(name=name))
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
    elif answer.drifted:
        _say(history.changes(answer.changes))
    else:
        _say(f"deployment/{render.short(name)} runs as it was applied")
    return not answer.drifted


async def reconcile(session: Session, name: str, *, wait: float) -> None:
    """Make what runs what was applied, and say what became of it."""
    request = pb2.ReconcileDeploymentRequest(name=name)
    answer = await session.call(session.orchestrator.ReconcileDeployment, request, wait=wait)
    _say(f"deployment/{answer.deployment.deployment_id} reconciled: {render.state(answer.deployment)}")


async def export(session: Session, name: str, *, live: bool) -> None:
    """Print the manifest to the byte; what of a running one cannot be said in it, on standard error."""
    request = pb2.ExportDeploymentRequest(name=name, live=live)
    answer = await session.call(session.orchestrator.ExportDeployment, request)
    for issue in answer.issues:
        violation = FieldViolation(field_path=issue.field_path, message=issue.message)
        sys.stderr.write(f"not in it: {report.violation_line(violation, source='')}\n")
    sys.stdout.buffer.write(answer.manifest.content.encode())
    sys.stdout.buffer.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
