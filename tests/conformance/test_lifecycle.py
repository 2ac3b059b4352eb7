"""Every engine deploys, shows, replaces and removes alike."""

from __future__ import annotations

import asyncio

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.errors import Aborted, AlreadyExists, BeemeshError, NotFound
from services.rpc.errors import translated
from tests.conformance.conftest import Case
from tests.harness.engines import NODE_A, NODE_B, EngineClient
from tests.harness.errors import refusal

SECONDS = 60


def ids(workload: wpb.Workload) -> set[str]:
    """Its components."""
    return {component.component_id for component in workload.components}


async def get(client: EngineClient, workload_id: str) -> wpb.Workload:
    """One workload."""
    answer = await client.engine.GetWorkload(pb.GetWorkloadRequest(workload_id=workload_id), timeout=SECONDS)
    return answer.workload


async def listed(client: EngineClient, workload_id: str) -> list[wpb.Workload]:
    """What a list has of it."""
    request = pb.ListWorkloadsRequest(filter=f"workload_id={workload_id}")
    return list((await client.engine.ListWorkloads(request, timeout=SECONDS)).workloads)


async def remove(client: EngineClient, workload_id: str) -> wpb.Workload:
    """Remove it at once."""
    request = pb.RemoveWorkloadRequest(workload_id=workload_id, force=True, remove_volumes=True)
    return (await client.engine.RemoveWorkload(request, timeout=SECONDS)).workload


async def test_a_workload_lives_and_is_removed(case: Case) -> None:
    """Deployed it is RUNNING in the answer, in get and in list; removed it is gone, and a second time NOT_FOUND."""
    async with case.serve() as client:
        done = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        assert done.action == tpb.CHANGE_ACTION_CREATE
        await running(client, case.workload_id)
        got = await get(client, case.workload_id)
        assert got.name == f"engines/{got.engine}/workloads/{case.workload_id}"
        assert (got.workload_id, got.manifest_id, got.generation) == (case.workload_id, case.name, 1)
        assert got.metadata["beemesh.io/node-id"] == NODE_A
        assert ids(got) == ids(done.workload) != set()
        assert [ids(workload) for workload in await listed(client, case.workload_id)] == [ids(got)]
        assert (await remove(client, case.workload_id)).state == wpb.WORKLOAD_STATE_REMOVED
        assert await listed(client, case.workload_id) == []
        for call in (get(client, case.workload_id), remove(client, case.workload_id)):
            error = await refusal(call)
            assert (type(error), error.reason) == (NotFound, "WORKLOAD_NOT_FOUND")
        missing = pb.RemoveWorkloadRequest(workload_id=case.workload_id, allow_missing=True)
        await client.engine.RemoveWorkload(missing, timeout=SECONDS)


async def test_the_same_again_is_none(case: Case) -> None:
    """The second deploy touches nothing: same components."""
    async with case.serve() as client:
        first = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        again = await client.engine.DeployWorkload(case.deploy(case.text + "\n# a comment\n"), timeout=SECONDS)
        assert again.action == tpb.CHANGE_ACTION_NONE
        assert ids(again.workload) == ids(first.workload)
        await remove(client, case.workload_id)


async def test_other_content_needs_leave_to_replace(case: Case) -> None:
    """ALREADY_EXISTS leaves what runs alone; with allow_replace other components run, as generation 2."""
    async with case.serve() as client:
        first = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        error = await refusal(client.engine.DeployWorkload(case.deploy(case.changed), timeout=SECONDS))
        assert isinstance(error, AlreadyExists)
        assert ids(await get(client, case.workload_id)) == ids(first.workload)
        allowed = case.deploy(case.changed, allow_replace=True, etag=first.workload.etag)
        second = await client.engine.DeployWorkload(allowed, timeout=SECONDS)
        assert (second.action, second.workload.generation) == (tpb.CHANGE_ACTION_REPLACE, 2)
        assert not ids(second.workload) & ids(first.workload)
        stale = case.deploy(case.text, allow_replace=True, etag=first.workload.etag)
        error = await refusal(client.engine.DeployWorkload(stale, timeout=SECONDS))
        assert (type(error), error.reason) == (Aborted, "STALE_ETAG")
        await remove(client, case.workload_id)


async def test_validate_only_touches_nothing(case: Case) -> None:
    """It says CREATE and creates nothing, says REPLACE and replaces nothing."""
    async with case.serve() as client:
        would = await client.engine.DeployWorkload(case.deploy(validate_only=True), timeout=SECONDS)
        assert would.action == tpb.CHANGE_ACTION_CREATE
        assert isinstance(await refusal(get(client, case.workload_id)), NotFound)
        first = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        request = case.deploy(case.changed, validate_only=True, allow_replace=True)
        would = await client.engine.DeployWorkload(request, timeout=SECONDS)
        assert would.action == tpb.CHANGE_ACTION_REPLACE
        assert ids(await get(client, case.workload_id)) == ids(first.workload)
        await remove(client, case.workload_id)


@pytest.mark.parametrize("odd", ["as it is", "no last newline", "unicode and blanks", "CRLF", "a leading comment"])
async def test_the_manifest_comes_back_to_the_byte(case: Case, odd: str) -> None:
    """However it is written."""
    text = {
        "as it is": case.text,
        "no last newline": case.text.rstrip("\n"),
        "unicode and blanks": case.text + "\n# ünï ☃ \U0001f41d \u00a0\t  \n\n\n",
        "CRLF": case.text.replace("\n", "\r\n"),
        "a leading comment": "# first\n\n---\n" + case.text,
    }[odd]
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(text), timeout=SECONDS)
        request = pb.GetWorkloadManifestRequest(workload_id=case.workload_id)
        manifest = (await client.engine.GetWorkloadManifest(request, timeout=SECONDS)).manifest
        assert manifest.content.encode() == text.encode()
        assert manifest.content_digest.startswith("sha256:")
        assert manifest.format != tpb.MANIFEST_FORMAT_UNSPECIFIED
        await remove(client, case.workload_id)


async def test_the_config_comes_back_equal(case: Case) -> None:
    """All that was set, and nothing that was not."""
    config = wpb.DeploymentConfig(env={"GREETING": "a=b c"}, labels={"team": "blue"})
    config.resources.memory_bytes = 64 << 20
    async with case.serve() as client:
        await client.engine.DeployWorkload(case.deploy(config=config), timeout=SECONDS)
        request = pb.GetWorkloadConfigRequest(workload_id=case.workload_id)
        assert (await client.engine.GetWorkloadConfig(request, timeout=SECONDS)).config == config
        await remove(client, case.workload_id)


async def test_a_restarted_service_finds_everything(case: Case) -> None:
    """Same components, RUNNING, with manifest and config; the same deploy is NONE."""
    async with case.serve() as client:
        before = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
    async with case.serve() as client:
        await running(client, case.workload_id)
        after = await get(client, case.workload_id)
        assert (ids(after), after.uid, after.etag) == (
            ids(before.workload),
            before.workload.uid,
            before.workload.etag,
        )
        request = pb.GetWorkloadManifestRequest(workload_id=case.workload_id)
        assert (await client.engine.GetWorkloadManifest(request, timeout=SECONDS)).manifest.content == case.text
        again = await client.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        assert again.action == tpb.CHANGE_ACTION_NONE
        await remove(client, case.workload_id)


async def test_twenty_identical_deploys_at_once_are_one(case: Case) -> None:
    """One CREATE and nineteen NONE, all with the same components."""
    async with case.serve() as client:
        done = await asyncio.gather(*(client.engine.DeployWorkload(case.deploy(), timeout=SECONDS) for _ in range(20)))
        actions = sorted(answer.action for answer in done)
        assert actions == [tpb.CHANGE_ACTION_NONE] * 19 + [tpb.CHANGE_ACTION_CREATE]
        assert len({frozenset(ids(answer.workload)) for answer in done}) == 1
        await remove(client, case.workload_id)


async def test_of_two_different_deploys_at_once_one_wins(case: Case) -> None:
    """The other is ABORTED (or, on an engine so quick that it came too late to meet, ALREADY_EXISTS)."""

    async def attempt(text: str) -> pb.DeployWorkloadResponse | BeemeshError:
        try:
            with translated():
                return await client.engine.DeployWorkload(case.deploy(text), timeout=SECONDS)
        except BeemeshError as error:
            return error

    async with case.serve() as client:
        done = await asyncio.gather(attempt(case.text), attempt(case.changed))
        (won,) = [answer for answer in done if isinstance(answer, pb.DeployWorkloadResponse)]
        (lost,) = [answer for answer in done if isinstance(answer, BeemeshError)]
        assert won.action == tpb.CHANGE_ACTION_CREATE
        assert lost.reason in ("OPERATION_IN_PROGRESS", "WORKLOAD_EXISTS")
        assert ids(await get(client, case.workload_id)) == ids(won.workload)
        await remove(client, case.workload_id)


async def test_another_nodes_workloads_are_invisible_and_untouchable(case: Case) -> None:
    """Two nodes on one backend: each lists, reads and removes only its own, even under the same id."""
    async with case.serve(name="a", node_id=NODE_A) as a, case.serve(name="b", node_id=NODE_B) as b:
        mine = await a.engine.DeployWorkload(case.deploy(), timeout=SECONDS)
        assert await listed(b, case.workload_id) == []
        for call in (get(b, case.workload_id), remove(b, case.workload_id)):
            assert isinstance(await refusal(call), NotFound)
        assert ids(await get(a, case.workload_id)) == ids(mine.workload)
        await remove(a, case.workload_id)


async def running(client: EngineClient, workload_id: str) -> None:
    """Return when it is RUNNING."""
    async with asyncio.timeout(SECONDS):
        while (await get(client, workload_id)).state != wpb.WORKLOAD_STATE_RUNNING:
            await asyncio.sleep(0.1)
