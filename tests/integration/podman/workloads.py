"""Manifests and specs for the tests of this folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from services.engines.engine import Component, Config, LogLine, LogQuery, Observation, Spec, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.engines.streams import closed_after
from services.errors import Unavailable
from services.identity import Ownership, workload_id
from services.manifests import parse
from tests.harness.podman import IMAGE, PodmanMachine

FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
"""Runs until it is told to end, and then ends at once."""


def container(script: str, *, name: str = "main", **fields: object) -> dict[str, object]:
    """A container that runs a shell script."""
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **fields}


def spec(
    node_id: str, *containers: Mapping[str, object], name: str = "web", config: Config | None = None, **fields: object
) -> Spec:
    """A Pod of these containers as the keeper would hand it over; `fields` go into its spec."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": containers, **fields},
    }
    deployment = f"pod-default-{name}"
    ownership = Ownership(
        node_id=node_id,
        deployment_id=deployment,
        workload_id=workload_id(node=node_id, deployment=deployment),
        manifest_hash="sha256:" + "e" * 64,
    )
    return Spec(ownership=ownership, manifest=parse(msgspec.json.encode(pod).decode()), config=config or Config())


@asynccontextmanager
async def engine_on(machine: PodmanMachine, node_id: str) -> AsyncIterator[PodmanEngine]:
    """An engine whose podman service answers."""
    async with machine.engine(node_id) as engine:
        await answering(engine)
        yield engine


async def answering(engine: PodmanEngine, seconds: float = 10.0) -> None:
    """Wait until podman can be asked."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await engine.observe()
        except Unavailable:
            assert time.monotonic() < deadline, f"podman's service does not answer within {seconds} s"
            await asyncio.sleep(0.05)
        else:
            return


async def destroy(engine: PodmanEngine, workload: str, *, grace: float | None = None, force: bool = False) -> float:
    """Destroy; the seconds that it took."""
    began = time.monotonic()
    await engine.destroy(workload, grace_seconds=grace, force=force, remove_volumes=False)
    return time.monotonic() - began


async def read(engine: PodmanEngine, workload: str, query: LogQuery | None = None) -> list[LogLine]:
    """All lines."""
    return [line async for batch in engine.logs(workload, query or LogQuery()) for line in batch]


async def first_lines(
    engine: PodmanEngine, workload: str, count: int, query: LogQuery | None = None, seconds: float = 10.0
) -> list[LogLine]:
    """The first `count` lines, waiting for them."""
    lines: list[LogLine] = []
    async with asyncio.timeout(seconds), closed_after(engine.logs(workload, query or LogQuery(follow=True))) as batches:
        async for batch in batches:
            lines.extend(batch)
            if len(lines) >= count:
                break
    return lines[:count]


def texts(lines: Sequence[LogLine]) -> list[str]:
    """What the lines say."""
    return [line.text for line in lines]


async def until(
    engine: PodmanEngine, workload: str, holds: Callable[[Observation], bool], what: str, seconds: float = 10.0
) -> Observation:
    """The first observation of which `holds` is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = await engine.observe_one(workload)
        if found is not None and holds(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s; last seen: {found}")


def only(found: Observation | None) -> Component:
    """The one component there is."""
    assert found is not None
    (component,) = found.components
    return component


def all_in(state: WorkloadState) -> Callable[[Observation], bool]:
    """Whether every component is in this state."""
    return lambda found: bool(found.components) and all(part.state is state for part in found.components)


def applied(node_id: str, text: str, *, deployment: str = "app", config: Config | None = None) -> Spec:
    """A manifest of several documents as the keeper would hand it over."""
    manifest = parse(text)
    ownership = Ownership(
        node_id=node_id,
        deployment_id=deployment,
        workload_id=workload_id(node=node_id, deployment=deployment),
        manifest_hash=manifest.canonical_digest,
    )
    return Spec(ownership=ownership, manifest=manifest, config=config or Config())


def inside(machine: PodmanMachine, container: str, command: str) -> str:
    """What a shell command prints in a container, white space at its ends left out."""
    return machine.podman("exec", container, "sh", "-c", command).strip()
