"""After any crash one story: the record, what runs, and what is announced agree, and nothing is left over."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2 as provider_pb

from services.engines.engine import Observation, WorkloadState
from services.engines.mock.backend import MockBackend
from services.engines.records import Record
from tests.crash.node import ENGINES, CrashNode
from tests.crash.twin import BACKEND

ACTIVE = frozenset({pb.DEPLOYMENT_STATE_ACTIVE, pb.DEPLOYMENT_STATE_ROLLED_BACK})
_RUNS = {
    pb.DEPLOYMENT_STATE_ACTIVE: WorkloadState.RUNNING,
    pb.DEPLOYMENT_STATE_ROLLED_BACK: WorkloadState.RUNNING,
    pb.DEPLOYMENT_STATE_STOPPED: WorkloadState.STOPPED,
    pb.DEPLOYMENT_STATE_SUCCEEDED: WorkloadState.SUCCEEDED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One workload in a backend."""

    engine: str
    observation: Observation


def records(node: CrashNode) -> dict[str, pb.Deployment]:
    """The deployments, by id."""
    answer = node.call(node.orchestrator.ListDeployments, pb.ListDeploymentsRequest(page_size=1000))
    return {item.deployment_id: item for item in answer.deployments}


def copies(node: CrashNode) -> list[Copy]:
    """What the backends have, read where they keep it: no service is asked."""
    found = []
    for engine in ENGINES:
        backend = MockBackend(node.data(engine) / BACKEND, clock=time.time)
        backend.load()
        node_id = (node.data("orchestrator") / "node_id").read_text().strip()
        found += [Copy(engine=engine, observation=item) for item in backend.of_node(node_id).values()]
    return found


def announced(node: CrashNode) -> set[str]:
    """The deployments that the provider announces."""
    answer = node.call(node.provider.ListProviders, provider_pb.ListProvidersRequest(page_size=1000))
    return {item.manifest_id for item in answer.providers}


def check(node: CrashNode) -> None:
    """Wait until nothing moves and all tell the same story; more than one copy at rest fails at once."""
    node.until(lambda: not contradictions(node), lambda: "; ".join(contradictions(node)))


def contradictions(node: CrashNode) -> list[str]:
    """What is under way still, or where record, backends, engines' records, announcements and orphans disagree."""
    found = records(node)
    moving = [name for name, item in found.items() if item.reconciling or item.state == pb.DEPLOYMENT_STATE_UNKNOWN]
    if moving:
        return [f"{name} is {pb.DeploymentState.Name(found[name].state)}" for name in moving]
    by_name: dict[str, list[Copy]] = {name: [] for name in found}
    for copy in copies(node):
        by_name.setdefault(copy.observation.ownership.deployment_id, []).append(copy)
    unclaimed = [
        f"{name} is held by {by_name[name][0].engine}, and no record says so" for name in by_name.keys() - found
    ]
    told = [text for name, item in found.items() for text in _about(node, name, item, by_name[name])]
    wanted = {name for name, item in found.items() if item.state in ACTIVE}
    wrongly = [f"{name}'s announcement" for name in announced(node) ^ wanted]
    return [*unclaimed, *told, *wrongly, *_left_over(node, by_name)]


def _about(node: CrashNode, name: str, record: pb.Deployment, held: list[Copy]) -> Iterator[str]:
    assert len(held) <= 1, f"{name}: copies on {[copy.engine for copy in held]}"
    told = [(item.engine_id, item.workload_id) for item in record.instances if item.HasField("workload")]
    state = pb.DeploymentState.Name(record.state)
    if told != [(copy.engine, copy.observation.ownership.workload_id) for copy in held]:
        yield f"{name} is {state} on {told}, and held by {[copy.engine for copy in held]}"
    elif record.state == pb.DEPLOYMENT_STATE_FAILED:
        if not record.error.reason:
            yield f"{name} is FAILED without a reason"
    elif [{part.state for part in copy.observation.components} for copy in held] != [{_RUNS.get(record.state)}]:
        yield f"{name} is {state}, and what runs is not"
    else:
        yield from _content(node, name, held[0])


def _content(node: CrashNode, name: str, copy: Copy) -> Iterator[str]:
    kept = node.call(
        node.engine(copy.engine).GetWorkloadManifest,
        engine_pb.GetWorkloadManifestRequest(workload_id=copy.observation.ownership.workload_id),
    )
    export = node.call(node.orchestrator.ExportDeployment, pb.ExportDeploymentRequest(name=name))
    if kept.manifest.content != export.manifest.content:
        yield f"{copy.engine} has kept another manifest of {name}"
    if {part.image for part in copy.observation.components} != {image_of(export.manifest.content)}:
        yield f"{name} runs another image than its manifest says"


def _left_over(node: CrashNode, by_name: Mapping[str, list[Copy]]) -> Iterator[str]:
    orphans = node.call(node.orchestrator.ListOrphans, pb.ListOrphansRequest())
    yield from (f"{engine} cannot be asked for orphans" for engine in orphans.unreachable_engines)
    yield from (f"{item.workload_id} is an orphan" for item in orphans.workloads)
    for engine in ENGINES:
        files = (node.data(engine) / "workloads").glob("*.json")
        kept = {
            item.manifest_id: item for item in (msgspec.json.decode(path.read_bytes(), type=Record) for path in files)
        }
        holds = {name for name, held in by_name.items() if any(copy.engine == engine for copy in held)}
        yield from (f"{engine}'s record of {name}" for name in kept.keys() ^ holds)
        yield from (
            f"{engine} is still {item.phase} {name}" for name, item in kept.items() if not item.phase.is_settled
        )


def replicas_of(manifest: str) -> int:
    """The number of replicas that our manifests ask for."""
    return int(manifest.partition("replicas: ")[2].partition("\n")[0])


def image_of(manifest: str) -> str:
    """The image that our manifests name."""
    return manifest.partition("image: ")[2].partition("}")[0].strip()
