"""Every engine refuses bad input and unfinished verbs alike, and says who it is."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.engines.convert import format_to
from services.errors import InvalidArgument, NotFound
from tests.conformance.conftest import Case
from tests.conformance.test_lifecycle import SECONDS, listed
from tests.harness.errors import refusal
from tests.harness.processes import until_serving

POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: main\n"

# By what is wrong: the text, the field ("": there is none to name) and the line.
BAD_TEXTS = {
    "broken YAML": ("a: [\n", "", 2),
    "a list": ("- a\n- b\n", "", 1),
    "duplicate key": ("apiVersion: v1\napiVersion: v1\nkind: Pod\n", "apiVersion", 2),
    "unknown field": (POD + "    image: example:1\n    imag: x\n", "spec.containers[0].imag", 9),
    "wrong type": (POD + "    image: 5\n", "spec.containers[0].image", 8),
    "missing field": (POD, "spec.containers[0].image", 7),
    "unknown kind": ("apiVersion: v1\nkind: Poddy\nmetadata:\n  name: web\n", "kind", 2),
    "50,000 brackets": ("[" * 50_000, "", 1),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
async def test_a_bad_manifest_is_refused_with_field_and_line(case: Case, name: str) -> None:
    """INVALID_ARGUMENT, and nothing is touched; ValidateManifest has the same finding as an issue."""
    text, field, line = BAD_TEXTS[name]
    async with case.serve() as client:
        error = await refusal(client.engine.DeployWorkload(case.deploy(text), timeout=SECONDS))
        assert isinstance(error, InvalidArgument)
        assert any(found.line == line and field in ("", found.field_path) for found in error.violations)
        assert await listed(client, case.workload_id) == []
        verdict = await client.engine.ValidateManifest(
            pb.ValidateManifestRequest(manifest=tpb.Manifest(content=text)), timeout=SECONDS
        )
        assert not verdict.valid
        assert any(found.line == line and field in ("", found.field_path) for found in verdict.issues)
        assert all(issue.severity == tpb.ISSUE_SEVERITY_ERROR for issue in verdict.issues)


async def test_a_manifest_of_five_megabytes_is_refused(case: Case) -> None:
    """It reaches the engine and gets the engine's error, not the transport's."""
    async with case.serve() as client:
        text = case.text + "#" * (5 << 20)
        error = await refusal(client.engine.DeployWorkload(case.deploy(text), timeout=SECONDS))
        assert isinstance(error, InvalidArgument)


BAD_REQUESTS = {
    "workload_id": pb.DeployWorkloadRequest(manifest_id="web", manifest=tpb.Manifest(content=POD)),
    "manifest_id": pb.DeployWorkloadRequest(workload_id="w", manifest=tpb.Manifest(content=POD)),
    "manifest.content": pb.DeployWorkloadRequest(workload_id="w", manifest_id="web"),
    "config.replicas": pb.DeployWorkloadRequest(
        workload_id="w",
        manifest_id="web",
        manifest=tpb.Manifest(content=POD),
        config=wpb.DeploymentConfig(replicas=-1),
    ),
    "config.env": pb.DeployWorkloadRequest(
        workload_id="w",
        manifest_id="web",
        manifest=tpb.Manifest(content=POD),
        config=wpb.DeploymentConfig(env={"A=B": "c"}),
    ),
    "config.resources.cpu_cores": pb.DeployWorkloadRequest(
        workload_id="w",
        manifest_id="web",
        manifest=tpb.Manifest(content=POD),
        config=wpb.DeploymentConfig(resources=tpb.Resources(cpu_cores=float("nan"))),
    ),
}


@pytest.mark.parametrize("field", BAD_REQUESTS)
async def test_a_bad_request_is_refused_with_its_field(case: Case, field: str) -> None:
    """What is missing or out of range is named."""
    async with case.serve() as client:
        error = await refusal(client.engine.DeployWorkload(BAD_REQUESTS[field], timeout=SECONDS))
        assert isinstance(error, InvalidArgument)
        assert error.violations[0].field_path == field


async def test_reads_need_an_id(case: Case) -> None:
    """INVALID_ARGUMENT without one, NOT_FOUND for one that nobody has."""
    async with case.serve() as client:
        for workload_id, expected in (("", InvalidArgument), ("Not An Id", InvalidArgument), ("w", NotFound)):
            calls: list[Awaitable[object]] = [
                client.engine.GetWorkload(pb.GetWorkloadRequest(workload_id=workload_id), timeout=SECONDS),
                client.engine.RemoveWorkload(pb.RemoveWorkloadRequest(workload_id=workload_id), timeout=SECONDS),
                client.engine.GetWorkloadManifest(
                    pb.GetWorkloadManifestRequest(workload_id=workload_id), timeout=SECONDS
                ),
                client.engine.GetWorkloadConfig(pb.GetWorkloadConfigRequest(workload_id=workload_id), timeout=SECONDS),
            ]
            for call in calls:
                assert isinstance(await refusal(call), expected)


async def test_an_unknown_option_is_refused_in_every_mode(case: Case) -> None:
    """The key is named."""
    config = wpb.DeploymentConfig(engine_options={"no-such-option": "1"})
    async with case.serve() as client:
        for mode in (tpb.VALIDATION_MODE_STRICT, tpb.VALIDATION_MODE_WARN):
            request = case.deploy(config=config, validation_mode=mode)
            error = await refusal(client.engine.DeployWorkload(request, timeout=SECONDS))
            assert (type(error), error.reason) == (InvalidArgument, "UNKNOWN_OPTION")
            assert "no-such-option" in error.violations[0].field_path


async def test_a_frame_that_is_no_utf8_is_an_invalid_argument(case: Case) -> None:
    """A text field with bad bytes fails with our error, not with the runtime's."""
    frame = b"\x0a\x02\xff\xfe"  # field 1, two bytes
    async with case.serve() as client:
        for method in ("DeployWorkload", "GetWorkload", "RemoveWorkload"):
            call: Any = client.channel.unary_unary(f"/beemesh.engine.v1.EngineService/{method}")
            error = await refusal(call(frame, timeout=SECONDS))
            assert (type(error), error.reason) == (InvalidArgument, "REQUEST_UNDECODABLE")


async def test_a_good_manifest_is_valid(case: Case) -> None:
    """With its format and canonical digest; saying another format is an issue."""
    async with case.serve() as client:
        good = tpb.Manifest(content=case.text)
        verdict = await client.engine.ValidateManifest(pb.ValidateManifestRequest(manifest=good), timeout=SECONDS)
        assert (verdict.valid, verdict.format) == (True, format_to(case.format))
        assert verdict.canonical_digest.startswith("sha256:")
        good.format = tpb.ManifestFormat.ValueType(1 + verdict.format % 4)  # any other
        verdict = await client.engine.ValidateManifest(pb.ValidateManifestRequest(manifest=good), timeout=SECONDS)
        assert [issue.reason for issue in verdict.issues] == ["FORMAT_MISMATCH"]
        error = await refusal(client.engine.ValidateManifest(pb.ValidateManifestRequest(), timeout=SECONDS))
        assert isinstance(error, InvalidArgument)


async def test_an_engine_says_who_it_is_and_that_it_is_well(case: Case) -> None:
    """Its formats, its room, an instance id that changes with each start, and HEALTHY, which gRPC health follows."""
    instances = set()
    for _ in range(2):
        async with case.serve() as client:
            await until_serving(client.channel, "backend", seconds=SECONDS)
            info = (await client.engine.GetEngineInfo(pb.GetEngineInfoRequest(), timeout=SECONDS)).info
            assert format_to(case.format) in info.formats
            assert info.capacity.cpu_cores > 0 < info.capacity.memory_bytes
            instances.add(info.instance_id)
            for probe in (False, True):
                request = pb.GetEngineHealthRequest(probe=probe)
                health = (await client.engine.GetEngineHealth(request, timeout=SECONDS)).health
                assert health.state == pb.ENGINE_HEALTH_STATE_HEALTHY
                assert health.HasField("last_probe_time")
            watch = client.engine.WatchEngineHealth(pb.WatchEngineHealthRequest(), timeout=SECONDS)
            assert (await anext(aiter(watch))).health.state == pb.ENGINE_HEALTH_STATE_HEALTHY
            watch.cancel()
    assert len(instances) == 2
