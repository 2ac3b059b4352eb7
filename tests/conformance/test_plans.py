"""Every engine says before a change what it will do, and then does exactly that."""

from __future__ import annotations

from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.type.v1 import types_pb2 as tpb

from services.errors import InvalidArgument, NotFound, Unimplemented
from services.manifests import Format
from tests.conformance.conftest import Case
from tests.conformance.test_lifecycle import SECONDS, get, ids, remove, running
from tests.harness.engines import EngineClient
from tests.harness.errors import refusal


async def plan(client: EngineClient, case: Case, text: str | None = None, **fields: Any) -> pb.PlanWorkloadResponse:
    """What a deploy of the test's workload would do."""
    request = pb.PlanWorkloadRequest(workload_id=case.workload_id, **fields)
    request.manifest.content = case.text if text is None else text
    return await client.engine.PlanWorkload(request, timeout=SECONDS)


async def test_a_plan_names_what_would_change_and_touches_nothing(case: Case) -> None:
    """CREATE before the first deploy, NONE after it, REPLACE with the changed fields for other content."""
    async with case.serve() as client:
        first = await plan(client, case)
        assert (first.action, first.etag) == (tpb.CHANGE_ACTION_CREATE, "")
        assert {change.action for change in first.changes} == {tpb.CHANGE_ACTION_CREATE}
        assert isinstance(await refusal(get(client, case.workload_id)), NotFound)
        deployed = (await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)).workload
        again = await plan(client, case)
        assert (again.action, list(again.changes), again.etag) == (tpb.CHANGE_ACTION_NONE, [], deployed.etag)
        other = await plan(client, case, case.changed)
        assert (other.action, other.etag) == (tpb.CHANGE_ACTION_REPLACE, deployed.etag)
        assert other.changes
        assert all(change.target and change.field_path for change in other.changes)
        assert "replace" in {change.forces for change in other.changes}
        assert ids(await get(client, case.workload_id)) == ids(deployed)
        done = case.deploy(case.changed, allow_replace=True, etag=other.etag)
        assert (await client.engine.DeployWorkload(done, timeout=SECONDS)).action == other.action
        assert (await plan(client, case, case.changed)).action == tpb.CHANGE_ACTION_NONE
        await remove(client, case.workload_id)


async def test_a_plan_refuses_what_a_deploy_refuses(case: Case) -> None:
    """A manifest that is none."""
    async with case.serve() as client:
        error = await refusal(plan(client, case, "a: [1"))
        assert isinstance(error, InvalidArgument)


async def test_more_replicas_leave_the_others_alone(case: Case) -> None:
    """An update in place: the replicas that stay keep their components, up and down, and plan and deploy agree."""
    async with case.serve() as client:
        info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
        if pb.ENGINE_CAPABILITY_UPDATE_IN_PLACE not in info.capabilities:
            pytest.skip(f"engine {info.engine} does not update in place")
        seen = []
        for replicas in (1, 3, 2, 0, 2):
            request = case.deploy(allow_replace=True)
            request.config.replicas = replicas
            planned = await plan(client, case, config=request.config)
            done = await client.engine.DeployWorkload(request, timeout=SECONDS)
            assert done.action == planned.action
            assert len(ids(done.workload)) == replicas
            assert done.workload.runtime_digest in ("", done.workload.manifest_digest)
            assert (await plan(client, case, config=request.config)).action == tpb.CHANGE_ACTION_NONE
            seen.append((done.action, ids(done.workload)))
        assert [action for action, _ in seen] == [tpb.CHANGE_ACTION_CREATE] + [tpb.CHANGE_ACTION_UPDATE_IN_PLACE] * 4
        (_, one), (_, three), (_, two), _, (_, anew) = seen
        assert one < three > two > one
        assert not anew & three
        (change,) = (await plan(client, case)).changes
        assert (change.target, change.field_path, change.old_value, change.new_value) == ("config", "replicas", "2", "")
        await remove(client, case.workload_id)


async def test_an_annotation_needs_no_new_instance(case: Case) -> None:
    """Where the engine updates in place; the components stay, and the manifest is the new one."""
    if case.format is not Format.KUBERNETES:
        pytest.skip("annotations are written another way")
    async with case.serve() as client:
        info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
        if pb.ENGINE_CAPABILITY_UPDATE_IN_PLACE not in info.capabilities:
            pytest.skip(f"engine {info.engine} does not update in place")
        first = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        text = case.text.replace("metadata:\n", "metadata:\n  annotations: {note: new}\n", 1)
        planned = await plan(client, case, text)
        assert planned.action == tpb.CHANGE_ACTION_UPDATE_IN_PLACE
        (change,) = planned.changes
        assert (change.field_path, change.forces) == ("metadata.annotations.note", "")
        done = await client.engine.DeployWorkload(case.deploy(text, allow_replace=True), timeout=SECONDS)
        assert (done.action, ids(done.workload)) == (planned.action, ids(first.workload))
        assert done.workload.generation == 2
        kept = pb.GetWorkloadManifestRequest(workload_id=case.workload_id)
        assert (await client.engine.GetWorkloadManifest(kept, timeout=SECONDS)).manifest.content == text
        await remove(client, case.workload_id)


async def test_an_update_in_place_outlives_a_restart(case: Case) -> None:
    """The engine that comes back sees no drift: what runs is what was asked for."""
    async with case.serve() as client:
        info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
        if pb.ENGINE_CAPABILITY_UPDATE_IN_PLACE not in info.capabilities:
            pytest.skip(f"engine {info.engine} does not update in place")
        await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        request = case.deploy(allow_replace=True)
        request.config.replicas = 2
        before = (await client.engine.DeployWorkload(request, timeout=SECONDS)).workload
    async with case.serve() as client:
        await running(client, case.workload_id)  # the backend may take a moment to answer the new engine
        after = await get(client, case.workload_id)
        assert ids(after) == ids(before)
        assert after.runtime_digest == after.manifest_digest
        assert (await plan(client, case, config=request.config)).action == tpb.CHANGE_ACTION_NONE
        await remove(client, case.workload_id)


async def test_an_export_is_a_manifest_that_can_be_deployed(case: Case) -> None:
    """As it was applied; the deployment config is written into it, or listed as what it cannot say."""
    async with case.serve() as client:
        request = case.deploy()
        request.config.env["ADDED"] = "1e3"
        await client.engine.DeployWorkload(request, timeout=SECONDS)
        try:
            wanted = pb.ExportManifestRequest(workload_id=case.workload_id)
            exported = await client.engine.ExportManifest(wanted, timeout=SECONDS)
        except Unimplemented:
            pytest.skip("this engine does not export")
        finally:
            await remove(client, case.workload_id)
        listed = {issue.field_path for issue in exported.issues}
        assert ("ADDED" in exported.manifest.content) is ("config.env" not in listed)
        validate = pb.ValidateManifestRequest(manifest=tpb.Manifest(content=exported.manifest.content))
        assert (await client.engine.ValidateManifest(validate, timeout=SECONDS)).valid
        missing = pb.ExportManifestRequest(workload_id=case.workload_id)
        assert isinstance(await refusal(client.engine.ExportManifest(missing, timeout=SECONDS)), NotFound)


async def test_an_export_to_another_format_is_refused(case: Case) -> None:
    """INVALID_ARGUMENT UNSUPPORTED_FORMAT; the same format is fine."""
    async with case.serve() as client:
        done = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        manifest = pb.GetWorkloadManifestRequest(workload_id=case.workload_id)
        own = (await client.engine.GetWorkloadManifest(manifest, timeout=SECONDS)).manifest.format
        other = tpb.ManifestFormat.ValueType(1 + own % 4)
        request = pb.ExportManifestRequest(workload_id=done.workload.workload_id, format=other)
        error = await refusal(client.engine.ExportManifest(request, timeout=SECONDS))
        await remove(client, case.workload_id)
        if isinstance(error, Unimplemented):
            pytest.skip("this engine does not export")
        assert (type(error), error.reason) == (InvalidArgument, "UNSUPPORTED_FORMAT")
