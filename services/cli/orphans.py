"""The commands about orphans: workloads of this node that no deployment claims."""

from __future__ import annotations

import sys
import time

from beemesh.engine.v1.workload_pb2 import Workload, WorkloadState
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2

from services.cli import render
from services.cli.session import Session
from services.cli.show import PAGES_MAX


async def show(session: Session, *, output: str) -> None:
    """Print them; engines that cannot say are named on standard error."""
    found: list[Workload] = []
    silent: set[str] = set()
    request = pb2.ListOrphansRequest()
    for _ in range(PAGES_MAX):
        page = await session.call(session.orchestrator.ListOrphans, request)
        found += page.workloads
        silent |= set(page.unreachable_engines)
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    if silent:
        sys.stderr.write(f"warning: cannot be asked, and may have more: {', '.join(sorted(silent))}\n")
    if output != "table":
        _say(render.formatted({"workloads": [render.as_data(item) for item in found]}, output))
        return
    _say(_table(found, time.time()) if found else "no orphans")


def _table(items: list[Workload], now: float) -> str:
    rows = [
        (
            item.workload_id,
            item.engine,
            WorkloadState.Name(item.state).removeprefix("WORKLOAD_STATE_"),
            item.manifest_id,
            str(len(item.components)),
            render.age(item.create_time, now),
        )
        for item in items
    ]
    return render.table(("WORKLOAD", "ENGINE", "STATE", "DEPLOYMENT", "COMPONENTS", "AGE"), rows)


async def adopt(session: Session, workload: str, *, deployment_id: str) -> None:
    """Make a deployment of one again, as it runs."""
    request = pb2.AdoptOrphanRequest(workload_name=workload, deployment_id=deployment_id)
    answer = await session.call(session.orchestrator.AdoptOrphan, request, wait=10)
    _say(f"deployment/{answer.deployment.deployment_id} adopted: {render.state(answer.deployment)}")


async def purge(session: Session, workload: str, *, engine: str, force: bool, wait: float) -> None:
    """Remove those that match, or only say which."""
    wanted = {"engine": engine, "workload_id": workload.rpartition("/")[2]}
    request = pb2.PurgeOrphansRequest(
        filter=" AND ".join(f'{key}="{value}"' for key, value in wanted.items() if value), force=force
    )
    answer = await session.call(session.orchestrator.PurgeOrphans, request, wait=wait)
    word = "removed" if force else "would be removed"
    for name in answer.purge_sample:
        _say(f"{name} {word}")
    if answer.purge_count > len(answer.purge_sample):
        _say(f"… {answer.purge_count} {word} in all")
    if not answer.purge_count:
        _say("no orphans")
    elif not force:
        sys.stderr.write("nothing was touched; --force removes them, their named volumes stay\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
