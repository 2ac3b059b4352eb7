"""Compose workloads for tests, and what is seen of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from services.engines.engine import (
    Component,
    Config,
    Engine,
    ExecOrder,
    ExecOutput,
    ExitStatus,
    LogQuery,
    LogSource,
    Observation,
    Spec,
)
from services.identity import Ownership, canonical_digest, workload_id
from services.manifests import parse
from tests.harness.docker import IMAGE

SECONDS = 30.0
WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
"""A script that runs until TERM."""


def spec(node_id: str, text: str, *, name: str = "shop", **config: Any) -> Spec:
    """A workload of this Compose file; `IMAGE` and `WAITS` in it are filled in."""
    manifest = parse(re.sub(r"(?<![{\w])IMAGE\b", IMAGE, text).replace("WAITS", WAITS))
    ownership = Ownership(
        node_id=node_id,
        deployment_id=name,
        workload_id=workload_id(node=node_id, deployment=name),
        manifest_hash=canonical_digest(manifest.canonical_digest, {key: str(value) for key, value in config.items()}),
    )
    return Spec(ownership=ownership, manifest=manifest, config=Config(**config))


async def seen(engine: Engine, of: Spec) -> Observation:
    """The workload, which is there."""
    found = await engine.observe_one(of.workload_id)
    assert found is not None
    return found


async def components(engine: Engine, of: Spec) -> dict[str, Component]:
    """Its components by `service-replica`."""
    return {f"{each.display_name}-{each.replica}": each for each in (await seen(engine, of)).components}


async def ids(engine: Engine, of: Spec) -> dict[str, str]:
    """The containers by `service-replica`."""
    return {name: each.component_id for name, each in (await components(engine, of)).items()}


async def lines(engine: Engine, of: Spec, component: str = "", **query: Any) -> list[str]:
    """What it has written; podman tells a line in parts where it was written in parts."""
    asked = LogQuery(component_id=component, **query)
    found, begun = [], ""
    async for batch in engine.logs(of.workload_id, asked):
        for line in batch:
            begun += line.text
            if not line.partial:
                found.append(begun)
                begun = ""
    return found


async def said(engine: Engine, of: Spec, component: str, script: str) -> str:
    """What `sh -c script` prints in a component."""
    out = bytearray()
    order = ExecOrder(component_id=component, command=("sh", "-c", script))
    async with engine.exec(of.workload_id, order) as session:
        await session.close_stdin()
        async for piece in session.output():
            if isinstance(piece, ExecOutput) and piece.source is LogSource.STDOUT:
                out += piece.data
            elif isinstance(piece, ExitStatus):
                assert piece.exit_code == 0, out
    return out.decode().strip()


async def remove(engine: Engine, of: Spec, *, volumes: bool = True) -> None:
    """End it at once."""
    await engine.destroy(of.workload_id, grace_seconds=None, force=True, remove_volumes=volumes)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return when it does."""
    async with asyncio.timeout(SECONDS):
        while not await holds():
            await asyncio.sleep(0.1)
