"""The orchestrator over gRPC, beside the node's other services: waits, watches, events, the relay and its refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import engine_service_pb2_grpc as engine_grpc
from beemesh.engine.v1 import mock_engine_service_pb2 as mock_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from beemesh.provider.v1 import provider_service_pb2 as provider_pb
from beemesh.provider.v1 import provider_service_pb2_grpc as provider_grpc
from beemesh.type.v1 import types_pb2
from google.protobuf.duration_pb2 import Duration

from services.errors import BeemeshError
from services.rpc.client import connect
from services.rpc.errors import from_rpc_error
from tests.harness.calls import watched
from tests.harness.node import LocalNode, local_node
from tests.harness.processes import short_directory

POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {beemesh.io/runtime-engine: mock}
spec:
  containers:
  - {name: main, image: "localhost/busybox:1"}
"""
ID = "pod-default-web"
SOON = Duration(seconds=5)


@pytest.fixture
async def node() -> AsyncIterator[LocalNode]:
    """A node with the mock engine, and a public port; whatever its services call, they call with a deadline."""
    with watched(), short_directory() as directory:
        async with local_node(directory, public="127.0.0.1:0") as running:
            yield running


async def apply(node: LocalNode, manifest: str = POD, **more: Any) -> pb.ApplyManifestResponse:
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=manifest), **more)
    answer: pb.ApplyManifestResponse = await node.orchestrator.ApplyManifest(request, timeout=10)
    return answer


async def refusal(call: Any) -> BeemeshError:
    """The domain error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def behave(node: LocalNode, *faults: mock_pb.MockFault) -> None:
    request = mock_pb.SetMockBehaviorRequest(faults=faults, health=engine_pb.ENGINE_HEALTH_STATE_HEALTHY)
    await node.mock.SetMockBehavior(request, timeout=5)


async def until_announced(node: LocalNode) -> provider_pb.Provider:
    """The provider record, once the outbox has said it."""
    async with asyncio.timeout(5):
        while True:
            request = provider_pb.DiscoverProvidersRequest(manifest_id=ID)
            answer = await node.provider.DiscoverProviders(request, timeout=5)
            if answer.providers:
                return answer.providers[0]
            await asyncio.sleep(0.02)


async def test_an_apply_answers_when_it_runs_and_is_announced_soon_after(node: LocalNode) -> None:
    """ACTIVE in the answer; the six metadata keys and the applied-manifest record follow."""
    answer = await apply(node)
    assert (answer.action, answer.deployment.state) == (types_pb2.CHANGE_ACTION_CREATE, pb.DEPLOYMENT_STATE_ACTIVE)
    metadata = (await until_announced(node)).metadata
    assert set(metadata) == {
        "runtime_engine",
        "workload_id",
        "node_type",
        "capabilities",
        "resource.cpu",
        "resource.memory",
    }
    assert (metadata["runtime_engine"], metadata["node_type"]) == ("mock", "beemesh-machine")
    assert metadata["capabilities"] == "", "mock is no capability"
    async with asyncio.timeout(5):
        while not (
            await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)
        ).deployment.announced:
            await asyncio.sleep(0.02)
    applied = await node.provider.GetAppliedManifest(provider_pb.GetAppliedManifestRequest(manifest_id=ID), timeout=5)
    assert (applied.applied_manifest.kind, applied.applied_manifest.runtime_engine) == ("Pod", "mock")


async def test_a_short_deadline_ends_the_wait_and_not_the_apply(node: LocalNode) -> None:
    """A client that leaves after 50 ms finds its deployment done; the retry with the same request_id is NONE."""
    slow = mock_pb.MockFault(method="DeployWorkload", delay=Duration(nanos=400_000_000), remaining=1)
    await behave(node, slow)
    request = pb.ApplyManifestRequest(manifest=types_pb2.Manifest(content=POD), request_id="r1")
    answer = await node.orchestrator.ApplyManifest(request, timeout=0.3)
    assert answer.deployment.state == pb.DEPLOYMENT_STATE_DEPLOYING
    again = await apply(node, request_id="r1")
    assert (again.action, again.deployment.state) == (types_pb2.CHANGE_ACTION_NONE, pb.DEPLOYMENT_STATE_ACTIVE)


async def test_a_failure_is_an_error_that_names_the_deployment(node: LocalNode) -> None:
    """The reason is the engine's; the metadata says which deployment and in which state."""
    missing = mock_pb.MockFault(method="DeployWorkload", grpc_code=9, reason="IMAGE_NOT_FOUND", remaining=1)
    await behave(node, missing)
    error = await refusal(apply(node))
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "IMAGE_NOT_FOUND")
    assert error.metadata["deployment"] == f"deployments/{ID}"
    assert error.metadata["state"] == "FAILED"


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"env": {"A=B": "x"}}, "config.env['A=B']"),
        ({"env": {"A": "x\0"}}, "config.env['A']"),
        ({"replicas": 100_000}, "config.replicas"),
        ({"replicas": -1}, "config.replicas"),
        ({"engine_options": {"frob": "x"}}, "config.engine_options.frob"),
        ({"labels": {"beemesh.io/node-id": "x"}}, "config.labels['beemesh.io/node-id']"),
        ({"labels": {"a b\n": "x"}}, "config.labels['a b\\n']"),
        ({"labels": {"a": "x" * 100_000}}, "config.labels['a']"),
        ({"env": {"A": "x" * 200_000}}, "config.env"),
    ],
)
async def test_a_config_that_cannot_be_is_refused_and_what_runs_stays_as_it_is(
    node: LocalNode, config: dict[str, Any], field: str
) -> None:
    """INVALID_ARGUMENT with the field's path; nothing is recorded, and the running generation stands."""
    before = (await apply(node)).deployment
    error = await refusal(apply(node, config=workload_pb2.DeploymentConfig(**config)))
    assert error.code.name == "INVALID_ARGUMENT"
    assert [violation.field_path for violation in error.violations] == [field]
    after = await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)
    assert (after.deployment.etag, after.deployment.state) == (before.etag, pb.DEPLOYMENT_STATE_ACTIVE)


async def test_a_wait_ends_with_the_state_or_with_the_reason(node: LocalNode) -> None:
    """Reached: the deployment; failed: its error; another generation: ABORTED; too long: DEADLINE_EXCEEDED."""
    await apply(node, wait=Duration(seconds=0))
    reached = await node.orchestrator.WaitDeployment(pb.WaitDeploymentRequest(name=ID, timeout=SOON), timeout=10)
    assert reached.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
    late = pb.WaitDeploymentRequest(name=ID, states=[pb.DEPLOYMENT_STATE_STOPPED], timeout=Duration(nanos=100_000_000))
    assert (await refusal(node.orchestrator.WaitDeployment(late, timeout=10))).reason == "WAIT_TIMEOUT"
    old = pb.WaitDeploymentRequest(name=ID, generation=7, timeout=SOON)
    assert (await refusal(node.orchestrator.WaitDeployment(old, timeout=10))).reason == "SUPERSEDED"
    failing = asyncio.ensure_future(
        node.orchestrator.WaitDeployment(
            pb.WaitDeploymentRequest(name=ID, states=[pb.DEPLOYMENT_STATE_SUCCEEDED], timeout=SOON), timeout=10
        )
    )
    await asyncio.sleep(0.05)
    workload = reached.deployment.instances[0].workload_id
    broken = mock_pb.SetMockWorkloadRequest(workload_id=workload, state=workload_pb2.WORKLOAD_STATE_FAILED)
    await node.mock.SetMockWorkload(broken, timeout=5)
    assert (await refusal(failing)).reason == "WORKLOAD_FAILED"


async def test_a_watch_shows_the_snapshot_and_every_change(node: LocalNode) -> None:
    """SNAPSHOT, SYNCED, then ADDED, UPDATED and REMOVED; a token resumes where it left."""
    await apply(node)
    call: Any = node.orchestrator.WatchDeployments(pb.WatchDeploymentsRequest(), timeout=20)
    first, synced = await call.read(), await call.read()
    assert (first.type, first.deployment.deployment_id) == (types_pb2.WATCH_EVENT_TYPE_SNAPSHOT, ID)
    assert synced.type == types_pb2.WATCH_EVENT_TYPE_SYNCED
    await apply(node, deployment_id="other")
    await node.orchestrator.DeleteDeployment(pb.DeleteDeploymentRequest(name="other"), timeout=10)
    seen: list[Any] = []
    while not seen or seen[-1].type != types_pb2.WATCH_EVENT_TYPE_REMOVED:
        seen.append(await call.read())
    call.cancel()
    other = [(m.type, m.deployment.state) for m in seen if m.deployment.deployment_id == "other"]
    assert other[0][0] == types_pb2.WATCH_EVENT_TYPE_ADDED
    assert (types_pb2.WATCH_EVENT_TYPE_UPDATED, pb.DEPLOYMENT_STATE_ACTIVE) in other
    assert other[-1] == (types_pb2.WATCH_EVENT_TYPE_REMOVED, pb.DEPLOYMENT_STATE_DELETED)
    resumed: Any = node.orchestrator.WatchDeployments(
        pb.WatchDeploymentsRequest(resume_token=seen[-2].resume_token), timeout=10
    )
    assert (await resumed.read()).type == types_pb2.WATCH_EVENT_TYPE_REMOVED
    resumed.cancel()
    await node.stop("orchestrator")
    node.start("orchestrator")
    await node.ready()
    stale: Any = node.orchestrator.WatchDeployments(
        pb.WatchDeploymentsRequest(resume_token=seen[-1].resume_token), timeout=10
    )
    assert (await refusal(stale.read())).code.name == "OUT_OF_RANGE"


async def test_a_rollback_runs_the_revision_before(node: LocalNode) -> None:
    """The revisions tell what each was and became; a rollback makes a new one of the old content."""
    await apply(node)
    await apply(node, POD.replace("busybox:1", "busybox:2"))
    answer = await node.orchestrator.RollbackDeployment(pb.RollbackDeploymentRequest(name=ID), timeout=10)
    assert (answer.deployment.state, answer.deployment.revision) == (pb.DEPLOYMENT_STATE_ACTIVE, 3)
    kept = await node.orchestrator.ListDeploymentRevisions(
        pb.ListDeploymentRevisionsRequest(name=ID, page_size=2), timeout=5
    )
    assert [(item.revision, item.outcome) for item in kept.revisions] == [
        (3, pb.DEPLOYMENT_STATE_ACTIVE),
        (2, pb.DEPLOYMENT_STATE_ACTIVE),
    ]
    assert kept.revisions[0].manifest.content == POD
    older = pb.ListDeploymentRevisionsRequest(name=ID, page_size=2, page_token=kept.next_page_token)
    assert [r.revision for r in (await node.orchestrator.ListDeploymentRevisions(older, timeout=5)).revisions] == [1]
    absent = node.orchestrator.RollbackDeployment(pb.RollbackDeploymentRequest(name=ID, revision=9), timeout=5)
    assert (await refusal(absent)).reason == "REVISION_NOT_FOUND"


async def test_a_lost_database_leaves_orphans_that_are_adopted_as_they_run(node: LocalNode) -> None:
    """After the database is gone its workloads are listed, not touched, and adopted with their exact manifests."""
    before = (await apply(node)).deployment.instances[0].workload
    await until_announced(node)
    await node.stop("orchestrator")
    for file in (node.directory / "orchestrator").glob("orchestrator.db*"):
        file.unlink()
    node.start("orchestrator")
    await node.ready()
    async with asyncio.timeout(5):
        while not (await node.orchestrator.ListOrphans(pb.ListOrphansRequest(), timeout=5)).workloads:
            await asyncio.sleep(0.02)
    preview = await node.orchestrator.PurgeOrphans(pb.PurgeOrphansRequest(), timeout=5)
    assert list(preview.purge_sample) == [before.name]
    other = pb.AdoptOrphanRequest(workload_name=before.name, deployment_id="another")
    assert (await refusal(node.orchestrator.AdoptOrphan(other, timeout=5))).reason == "NOT_ITS_WORKLOAD"
    adopted = await node.orchestrator.AdoptOrphan(pb.AdoptOrphanRequest(workload_name=before.name), timeout=15)
    assert (adopted.deployment.deployment_id, adopted.deployment.state) == (ID, pb.DEPLOYMENT_STATE_ACTIVE)
    assert adopted.deployment.instances[0].workload.components == before.components
    exported = await node.orchestrator.ExportDeployment(pb.ExportDeploymentRequest(name=ID), timeout=5)
    assert exported.manifest.content == POD
    assert (await apply(node)).action == types_pb2.CHANGE_ACTION_NONE
    assert not (await node.orchestrator.ListOrphans(pb.ListOrphansRequest(), timeout=5)).workloads
    absent = node.orchestrator.AdoptOrphan(pb.AdoptOrphanRequest(workload_name="nobody"), timeout=5)
    assert (await refusal(absent)).reason == "ORPHAN_NOT_FOUND"


async def test_a_stopped_orphan_is_adopted_as_stopped(node: LocalNode) -> None:
    """What was stopped on request before the database was lost stays so, and can be started."""
    await apply(node)
    await node.orchestrator.StopDeployment(pb.StopDeploymentRequest(name=ID), timeout=10)
    await node.stop("orchestrator")
    for file in (node.directory / "orchestrator").glob("orchestrator.db*"):
        file.unlink()
    node.start("orchestrator")
    await node.ready()
    async with asyncio.timeout(5):
        while not (found := (await node.orchestrator.ListOrphans(pb.ListOrphansRequest(), timeout=5)).workloads):
            await asyncio.sleep(0.02)
    adopt = pb.AdoptOrphanRequest(workload_name=found[0].name)
    adopted = (await node.orchestrator.AdoptOrphan(adopt, timeout=15)).deployment
    assert (adopted.state, adopted.reconciling) == (pb.DEPLOYMENT_STATE_STOPPED, False)
    started = await node.orchestrator.StartDeployment(pb.StartDeploymentRequest(name=ID), timeout=10)
    assert started.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE


async def test_orphans_are_purged_only_by_force(node: LocalNode) -> None:
    """A preview touches nothing; with force they are gone."""
    request = engine_pb.DeployWorkloadRequest(
        workload_id="beemesh-stray-00000000", manifest_id="stray", manifest=types_pb2.Manifest(content=POD)
    )
    await node.engine.DeployWorkload(request, timeout=5)
    async with asyncio.timeout(5):
        while (await node.orchestrator.PurgeOrphans(pb.PurgeOrphansRequest(), timeout=5)).purge_count != 1:
            await asyncio.sleep(0.02)
    assert len((await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)).workloads) == 1
    await node.orchestrator.PurgeOrphans(pb.PurgeOrphansRequest(force=True, filter="engine=mock"), timeout=5)
    assert not (await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)).workloads


async def test_stop_start_and_restart_keep_the_workload(node: LocalNode) -> None:
    """The same container, stopped and started; the states say so, also after the orchestrator's restart."""
    before = (await apply(node)).deployment.instances[0].workload.uid
    stopped = await node.orchestrator.StopDeployment(pb.StopDeploymentRequest(name=ID), timeout=10)
    assert stopped.deployment.state == pb.DEPLOYMENT_STATE_STOPPED
    await node.cut("orchestrator")
    node.start("orchestrator")
    await node.ready()
    assert await state(node) in (pb.DEPLOYMENT_STATE_STOPPED, pb.DEPLOYMENT_STATE_UNKNOWN)
    started = await node.orchestrator.StartDeployment(pb.StartDeploymentRequest(name=ID), timeout=10)
    assert started.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
    restarted = await node.orchestrator.RestartDeployment(pb.RestartDeploymentRequest(name=ID), timeout=10)
    assert restarted.deployment.state == pb.DEPLOYMENT_STATE_ACTIVE
    assert restarted.deployment.instances[0].workload.uid == before


async def test_what_vanished_is_repaired_once_or_told_only(node: LocalNode) -> None:
    """Removed behind our back it is made anew by itself; with the policy `report` CheckDrift names it until asked."""
    workload = (await apply(node)).deployment.instances[0].workload_id
    await node.engine.RemoveWorkload(engine_pb.RemoveWorkloadRequest(workload_id=workload), timeout=5)
    async with asyncio.timeout(5):
        while not (await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)).workloads:
            await asyncio.sleep(0.02)
    await node.orchestrator.WaitDeployment(pb.WaitDeploymentRequest(name=ID, timeout=SOON), timeout=10)
    listed = await node.orchestrator.ListDeploymentEvents(pb.ListDeploymentEventsRequest(name=ID), timeout=5)
    reasons = [event.reason for event in listed.events]
    assert (reasons.count("DRIFTED"), reasons.count("REPAIRING")) == (1, 1)
    reported = POD.replace("{beemesh.io/", "{beemesh.io/drift-policy: report, beemesh.io/")
    workload = (await apply(node, reported, deployment_id="quiet")).deployment.instances[0].workload_id
    await node.engine.RemoveWorkload(engine_pb.RemoveWorkloadRequest(workload_id=workload), timeout=5)
    async with asyncio.timeout(5):
        while not (await get(node, "quiet")).drifted:
            await asyncio.sleep(0.02)
    drift = await node.orchestrator.CheckDrift(pb.CheckDriftRequest(name="quiet"), timeout=5)
    assert (drift.drifted, drift.changes[0].action) == (True, types_pb2.CHANGE_ACTION_CREATE)
    repaired = await node.orchestrator.ReconcileDeployment(pb.ReconcileDeploymentRequest(name="quiet"), timeout=10)
    assert (repaired.deployment.state, repaired.deployment.drifted) == (pb.DEPLOYMENT_STATE_ACTIVE, False)
    assert not (await node.orchestrator.CheckDrift(pb.CheckDriftRequest(name="quiet"), timeout=5)).drifted


async def get(node: LocalNode, name: str = ID) -> pb.Deployment:
    answer: pb.GetDeploymentResponse = await node.orchestrator.GetDeployment(
        pb.GetDeploymentRequest(name=name), timeout=5
    )
    return answer.deployment


async def test_an_apply_that_a_deletion_overtakes_does_not_say_ok(node: LocalNode) -> None:
    """ABORTED SUPERSEDED: what was asked for does not run."""
    slow = mock_pb.MockFault(method="DeployWorkload", delay=Duration(nanos=300_000_000), remaining=1)
    await behave(node, slow)
    applying = asyncio.ensure_future(apply(node))
    await asyncio.sleep(0.1)
    await node.orchestrator.DeleteDeployment(pb.DeleteDeploymentRequest(name=ID), timeout=10)
    error = await refusal(applying)
    assert (error.code.name, error.reason) == ("ABORTED", "SUPERSEDED")


async def test_exec_stats_and_live_export_reach_the_engine(node: LocalNode) -> None:
    """A command's exit status, a sample for each component, and the manifest as it runs."""
    await apply(node)

    async def requests() -> AsyncIterator[pb.ExecDeploymentRequest]:
        start = engine_pb.ExecStart(component_id="main", command=["echo", "hello"])
        yield pb.ExecDeploymentRequest(name=ID, exec=engine_pb.ExecWorkloadRequest(start=start))

    answers = [answer async for answer in node.orchestrator.ExecDeployment(requests(), timeout=10)]
    assert b"".join(answer.exec.stdout for answer in answers) == b"hello\n"
    assert answers[-1].exec.exit_status.exit_code == 0
    stats = await node.orchestrator.GetDeploymentStats(pb.GetDeploymentStatsRequest(name=ID), timeout=5)
    assert len(stats.stats) == 1
    live = await node.orchestrator.ExportDeployment(pb.ExportDeploymentRequest(name=ID, live=True), timeout=5)
    assert "busybox:1" in live.manifest.content


async def test_events_are_listed_and_followed_over_a_restart(node: LocalNode) -> None:
    """The history survives the orchestrator, and a watch goes on after the last event seen, each once."""
    await apply(node)
    await until_announced(node)
    listed = await node.orchestrator.ListDeploymentEvents(pb.ListDeploymentEventsRequest(name=ID), timeout=5)
    reasons = [event.reason for event in listed.events]
    assert reasons[:3] == ["APPLY_ACCEPTED", "DEPLOYED", "ACTIVE"]
    await node.cut("orchestrator")
    node.start("orchestrator")
    await node.ready()
    call: Any = node.orchestrator.WatchDeploymentEvents(
        pb.WatchDeploymentEventsRequest(name=ID, resume_token=listed.events[1].event_id), timeout=10
    )
    assert (await call.read()).event.reason == "ACTIVE"
    call.cancel()


async def test_an_engine_out_of_reach_makes_its_deployments_unknown_never_gone(node: LocalNode) -> None:
    """The engine's process is cut: UNKNOWN, with what was last seen; it comes back: ACTIVE, the same container."""
    before = (await apply(node)).deployment.instances[0].workload
    await node.cut("mock")
    async with asyncio.timeout(5):
        while await state(node) != pb.DEPLOYMENT_STATE_UNKNOWN:
            await asyncio.sleep(0.02)
    engine = engine_grpc.EngineServiceStub(node.channel("orchestrator"))
    gone = engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5, metadata=(("beemesh-engine", "mock"),))
    error = await refusal(gone)
    assert (error.reason, "mock.sock" in error.message) == ("SERVICE_UNREACHABLE", False)
    stats = node.orchestrator.GetDeploymentStats(pb.GetDeploymentStatsRequest(name=ID), timeout=5)
    error = await refusal(stats)
    assert (error.reason, error.retry_after, "mock.sock" in error.message) == ("ENGINE_UNREACHABLE", 1.0, False)
    listed = await node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(filter="state=UNKNOWN"), timeout=5)
    (instance,) = listed.deployments[0].instances
    assert instance.workload.components == before.components
    node.start("mock")
    async with asyncio.timeout(10):
        while await state(node) != pb.DEPLOYMENT_STATE_ACTIVE:
            await asyncio.sleep(0.02)
    after = await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)
    assert after.deployment.instances[0].workload.components == before.components


async def test_an_apply_right_after_a_restart_waits_until_the_engine_is_heard(node: LocalNode) -> None:
    """NONE is answered with what runs, not with UNKNOWN because the engine has not spoken yet."""
    await apply(node)
    await node.cut("mock")
    async with asyncio.timeout(5):
        while await state(node) != pb.DEPLOYMENT_STATE_UNKNOWN:
            await asyncio.sleep(0.02)
    waiting = asyncio.ensure_future(apply(node))
    await asyncio.sleep(0.1)
    node.start("mock")
    answer = await waiting
    assert (answer.action, answer.deployment.state) == (types_pb2.CHANGE_ACTION_NONE, pb.DEPLOYMENT_STATE_ACTIVE)


async def state(node: LocalNode) -> int:
    found = await node.orchestrator.GetDeployment(pb.GetDeploymentRequest(name=ID), timeout=5)
    return int(found.deployment.state)


async def test_the_relay_needs_an_engines_name_and_passes_everything_on(node: LocalNode) -> None:
    """Unary and streaming calls, metadata and rich errors go through unchanged; an unknown engine is said to be so."""
    await apply(node)
    engine = engine_grpc.EngineServiceStub(node.channel("orchestrator"))
    unnamed = engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)
    assert (await refusal(unnamed)).reason == "ENGINE_NOT_NAMED"
    unknown = engine.ListWorkloads(
        engine_pb.ListWorkloadsRequest(), timeout=5, metadata=(("beemesh-engine", "nobody"),)
    )
    assert (await refusal(unknown)).reason == "ENGINE_NOT_FOUND"
    by_name = (("beemesh-engine", "mock"),)
    held = await engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5, metadata=by_name)
    direct = await node.engine.ListWorkloads(engine_pb.ListWorkloadsRequest(), timeout=5)
    assert [item.uid for item in held.workloads] == [item.uid for item in direct.workloads]
    absent = engine.GetWorkload(engine_pb.GetWorkloadRequest(workload_id="nobody"), timeout=5, metadata=by_name)
    error = await refusal(absent)
    assert (error.code.name, error.reason) == ("NOT_FOUND", "WORKLOAD_NOT_FOUND")
    watch: Any = engine.WatchWorkloads(engine_pb.WatchWorkloadsRequest(), timeout=10, metadata=by_name)
    assert (await watch.read()).workload.uid == held.workloads[0].uid
    watch.cancel()
    provider = provider_grpc.ProviderServiceStub(node.channel("orchestrator"))
    status = await provider.GetDhtStatus(provider_pb.GetDhtStatusRequest(), timeout=5)
    assert status.node_id == held.workloads[0].metadata["beemesh.io/node-id"]


async def test_a_cancelled_relay_ends_the_engines_side(node: LocalNode) -> None:
    """A watcher that leaves the public port leaves the engine too: its watcher is gone when the engine drains."""
    engine = engine_grpc.EngineServiceStub(node.channel("orchestrator"))
    watch: Any = engine.WatchWorkloads(
        engine_pb.WatchWorkloadsRequest(), timeout=60, metadata=(("beemesh-engine", "mock"),)
    )
    assert (await watch.read()).type == types_pb2.WATCH_EVENT_TYPE_SYNCED
    watch.cancel()
    async with asyncio.timeout(3):
        await node.stop("mock")
    node.start("mock")


async def test_an_undecodable_frame_is_refused_before_anything_is_touched(node: LocalNode) -> None:
    """A raw frame of bad UTF-8 is INVALID_ARGUMENT, for served and for relayed methods."""
    for method, metadata in (
        ("/beemesh.orchestrator.v1.OrchestratorService/ApplyManifest", ()),
        ("/beemesh.engine.v1.EngineService/GetWorkload", (("beemesh-engine", "mock"),)),
    ):
        call: Any = node.channel("orchestrator").unary_unary(method)
        error = await refusal(call(b"\x0a\x02\xff\xfe", timeout=5, metadata=metadata))
        assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "REQUEST_UNDECODABLE")
    listed = await node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(), timeout=5)
    assert not listed.deployments


async def test_the_public_port_asks_for_the_token(tmp_path: Any) -> None:
    """Without it, or with a wrong one, UNAUTHENTICATED; with it all is served. Health is open."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        public = f"127.0.0.1:{free.getsockname()[1]}"
    with short_directory() as directory:
        async with local_node(directory, public=public) as node, connect(public) as channel:
            stub = pb_grpc.OrchestratorServiceStub(channel)
            for metadata in ((), (("authorization", "Bearer nonsense"),)):
                call = stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=5, metadata=metadata)
                assert (await refusal(call)).code.name == "UNAUTHENTICATED"
            good = (("authorization", f"Bearer {node.token}"),)
            await stub.ListDeployments(pb.ListDeploymentsRequest(), timeout=5, metadata=good)


async def test_lists_are_paged_and_filtered(node: LocalNode) -> None:
    """Pages in the order of ids; a filter by state and engine; an unknown field is refused by name."""
    for name in ("a", "b", "c"):
        await apply(node, deployment_id=name)
    page = await node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(page_size=2), timeout=5)
    rest = await node.orchestrator.ListDeployments(
        pb.ListDeploymentsRequest(page_size=2, page_token=page.next_page_token), timeout=5
    )
    assert [d.deployment_id for d in (*page.deployments, *rest.deployments)] == ["a", "b", "c"]
    assert rest.next_page_token == ""
    some = await node.orchestrator.ListDeployments(
        pb.ListDeploymentsRequest(filter="state=ACTIVE AND deployment_id=b"), timeout=5
    )
    assert [d.deployment_id for d in some.deployments] == ["b"]
    bad = node.orchestrator.ListDeployments(pb.ListDeploymentsRequest(filter="colour=red"), timeout=5)
    assert (await refusal(bad)).reason == "BAD_FILTER"


async def test_only_a_function_can_be_invoked(node: LocalNode) -> None:
    """NOT_FOUND, NOT_A_FUNCTION, and UNIMPLEMENTED by an engine that runs no code."""
    call = pb.InvokeDeploymentRequest(name=ID)
    error = await refusal(node.orchestrator.InvokeDeployment(call, timeout=5))
    assert (error.code.name, error.reason) == ("NOT_FOUND", "DEPLOYMENT_NOT_FOUND")
    await apply(node)
    error = await refusal(node.orchestrator.InvokeDeployment(call, timeout=5))
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "NOT_A_FUNCTION")
    function = "apiVersion: beemesh.io/v1\nkind: Function\nmetadata: {name: f}\nspec: {runtime: python, handler: a.b}\n"
    applied = await apply(node, function, engine_id="mock")
    call = pb.InvokeDeploymentRequest(name=applied.deployment.name, event_json=b"{}")
    error = await refusal(node.orchestrator.InvokeDeployment(call, timeout=5))
    assert (error.code.name, error.reason) == ("UNIMPLEMENTED", "UNSUPPORTED_VERB")
