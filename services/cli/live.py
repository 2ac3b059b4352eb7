"""The commands that follow what goes on: logs, changes, and what is used."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping

from beemesh.engine.v1.engine_service_pb2 import ComponentStats, LogEntry
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1 import types_pb2

from services.cli import render
from services.cli.components import components, labels, resolve
from services.cli.following import Pause, lasting
from services.cli.session import Session


async def logs(
    session: Session, name: str, *, component: str, follow: bool, tail: int | None, pause: Pause = asyncio.sleep
) -> None:
    """Print log lines; where several components write, each line says whose it is.

    Followed over a restart of the node or its engine, from the last line that came.
    """
    parts = components(await _get(session, name))
    wanted = resolve(parts, component)
    writing = [part for part in parts if wanted in ("", part.component_id, part.display_name)]
    names = labels(parts) if len(writing) > 1 else {}
    cursor = ""

    def opened() -> AsyncIterator[pb2.StreamDeploymentLogsResponse]:
        request = pb2.StreamDeploymentLogsRequest(
            name=name,
            follow=follow,
            tail_lines=None if cursor else tail,
            component_id=wanted,
            resume_cursor=cursor,
        )
        return session.stream(session.orchestrator.StreamDeploymentLogs, request)

    async for response in lasting(opened, pause=pause) if follow else opened():
        sys.stdout.writelines(_line(entry, names) for entry in response.entries)
        sys.stdout.flush()
        if response.entries:
            cursor = response.entries[-1].cursor


def _line(entry: LogEntry, names: Mapping[str, str]) -> str:
    whose = f"{names.get(entry.component_id, entry.component_id[:12])} | " if names else ""
    lost = f"{whose}… {entry.dropped_lines} lines or more are lost here …\n" if entry.dropped_lines else ""
    return f"{lost}{whose}{entry.text}" + ("" if entry.partial else "\n")


async def stats(session: Session, name: str, *, output: str) -> None:
    """Print one sample of what each component uses."""
    answer = await session.call(session.orchestrator.GetDeploymentStats, pb2.GetDeploymentStatsRequest(name=name))
    if output != "table":
        _say(render.formatted(render.as_data(answer), output))
        return
    names = labels(components(await _get(session, name)))
    header = ("COMPONENT", "CPU", "MEMORY", "NET IN", "NET OUT")
    _say(render.table(header, [_use(item, names) for item in answer.stats]) if answer.stats else "nothing runs")


def _use(item: ComponentStats, names: Mapping[str, str]) -> tuple[str, ...]:
    def amount(field: str) -> str:
        return render.size(getattr(item, field)) if item.HasField(field) else ""  # type: ignore[arg-type]

    return (
        names.get(item.component_id, item.component_id[:12]),
        f"{item.cpu_cores:.2f}" if item.HasField("cpu_cores") else "",
        amount("memory_bytes"),
        amount("network_rx_bytes"),
        amount("network_tx_bytes"),
    )


async def watch(session: Session, name: str, *, output: str, pause: Pause = asyncio.sleep) -> None:
    """Print deployments as they are, then as they change, until Ctrl-C; a change that shows nothing new is left out."""
    request = pb2.WatchDeploymentsRequest(name=name)
    shown: dict[str, tuple[str, ...]] = {}
    if output == "table":
        _say(_row(("TIME", "NAME", "STATE", "ENGINE", "READY", "RESTARTS", "MESSAGE")))
    changes = lasting(lambda: session.stream(session.orchestrator.WatchDeployments, request), pause=pause)
    async for event in changes:
        if event.type == types_pb2.WATCH_EVENT_TYPE_SYNCED and name and not shown:
            sys.stderr.write(f"there is no deployment {name} yet\n")
        if not event.HasField("deployment"):
            continue
        if output == "json":
            _say(json.dumps(render.as_data(event), ensure_ascii=False))
            continue
        item = event.deployment
        row = (item.deployment_id, *render.standing(item), item.state_message)
        if shown.get(item.deployment_id) != row:
            shown[item.deployment_id] = row
            _say(_row((time.strftime("%H:%M:%S"), *row)))


_WIDTHS = (8, 32, 12, 8, 5, 8)


def _row(cells: tuple[str, ...]) -> str:
    """Columns of fixed width: what comes later is not known."""
    *columns, last = (cell or "-" for cell in cells)
    return "  ".join([*(cell.ljust(width) for cell, width in zip(columns, _WIDTHS, strict=True)), last])


async def _get(session: Session, name: str) -> pb2.Deployment:
    answer = await session.call(session.orchestrator.GetDeployment, pb2.GetDeploymentRequest(name=name))
    return answer.deployment


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
