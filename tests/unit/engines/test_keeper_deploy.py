"""Deploying: idempotent, durable before it touches, healed when it was cut."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import ChangeAction, Config, Issue, Severity, WorkloadState
from services.engines.records import Phase
from services.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from services.identity import Ownership
from services.manifests import Format
from tests.unit.engines.fakes import NODE, OTHER_POD, POD, WORKLOAD, FakeEngine, bench, observed, unreachable

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
OTHER = replace(ORDER, text=OTHER_POD)
ERROR = Issue(severity=Severity.ERROR, field_path="spec.x", reason="UNSUPPORTED_FIELD", message="no x", line=3)
WARNING = Issue(severity=Severity.WARNING, field_path="spec.y", reason="UNSUPPORTED_FIELD", message="no y")


async def test_a_new_workload_is_created(tmp_path: Path) -> None:
    """It runs, its first generation is 1, and its labels are its metadata."""
    async with bench(tmp_path) as b:
        done = await b.keeper.deploy(ORDER)
        assert done.action is ChangeAction.CREATE
        assert done.workload.state is WorkloadState.RUNNING
        assert done.workload.generation == 1
        assert done.workload.manifest_digest == done.workload.runtime_digest != ""
        assert done.workload.metadata["beemesh.io/node-id"] == NODE
        assert not done.workload.reconciling


async def test_the_same_again_touches_nothing(tmp_path: Path) -> None:
    """The second deploy is NONE, with the same components and etag; a comment in the text makes no difference."""
    async with bench(tmp_path) as b:
        first = await b.keeper.deploy(ORDER)
        again = await b.keeper.deploy(replace(ORDER, text=POD + "# a comment\n"))
        assert again.action is ChangeAction.NONE
        assert again.workload.components == first.workload.components
        assert again.workload.etag == first.workload.etag
        assert b.engine.asked == ["create"]


async def test_the_same_after_a_restart_touches_nothing(tmp_path: Path) -> None:
    """What was deployed before the restart is known and still NONE."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
    async with bench(tmp_path, b.engine) as b:
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE
        assert b.engine.asked == ["create"]


async def test_other_content_is_refused_unless_it_may_replace(tmp_path: Path) -> None:
    """Without allow_replace nothing is touched; with it the old goes, volumes stay, and the generation counts up."""
    async with bench(tmp_path) as b:
        first = await b.keeper.deploy(ORDER)
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(OTHER)
        assert b.engine.asked == ["create"]
        done = await b.keeper.deploy(replace(OTHER, allow_replace=True))
        assert done.action is ChangeAction.REPLACE
        assert b.engine.asked == ["create", "destroy", "create"]
        assert b.engine.last_destroy == (None, False, False)
        assert done.workload.generation == 2
        assert done.workload.etag != first.workload.etag
        assert (await b.keeper.inside.record(WORKLOAD)).manifest == OTHER_POD


async def test_what_cannot_be_prepared_does_not_cost_what_runs(tmp_path: Path) -> None:
    """A replacement whose image is not to be had is refused before the old one is touched."""
    async with bench(tmp_path) as b:
        before = (await b.keeper.deploy(ORDER)).workload
        b.engine.failures["prepare"] = FailedPrecondition("no such image", reason="IMAGE_NOT_FOUND")
        with pytest.raises(FailedPrecondition, match="no such image"):
            await b.keeper.deploy(replace(OTHER, allow_replace=True))
        assert b.engine.asked == ["create"]
        after = await b.keeper.get(WORKLOAD)
        assert (after.etag, after.state) == (before.etag, before.state)
        assert (await b.keeper.inside.record(WORKLOAD)).manifest == ORDER.text


async def test_the_config_is_part_of_the_content(tmp_path: Path) -> None:
    """Another environment is other content; an empty one is none."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        assert (await b.keeper.deploy(replace(ORDER, config=Config(env={})))).action is ChangeAction.NONE
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(replace(ORDER, config=Config(env={"A": "1"})))


async def test_a_stale_etag_is_aborted(tmp_path: Path) -> None:
    """A replace that was decided on an older state is refused; the right etag is not, and its retry is NONE."""
    async with bench(tmp_path) as b:
        first = await b.keeper.deploy(ORDER)
        with pytest.raises(Aborted) as caught:
            await b.keeper.deploy(replace(OTHER, allow_replace=True, etag="stale"))
        assert caught.value.reason == "STALE_ETAG"
        retried = replace(OTHER, allow_replace=True, etag=first.workload.etag, request_id="r1")
        assert (await b.keeper.deploy(retried)).action is ChangeAction.REPLACE
        assert (await b.keeper.deploy(retried)).action is ChangeAction.NONE


async def test_twenty_at_once_are_one_create(tmp_path: Path) -> None:
    """Identical deploys at the same time: one CREATE, the others NONE with the same component."""
    async with bench(tmp_path) as b:
        done = await asyncio.gather(*(b.keeper.deploy(ORDER) for _ in range(20)))
        assert sorted(d.action for d in done) == [ChangeAction.NONE] * 19 + [ChangeAction.CREATE]
        assert len({d.workload.components for d in done}) == 1
        assert b.engine.asked == ["create"]


async def test_of_two_different_at_once_one_wins(tmp_path: Path) -> None:
    """The one that comes later is ABORTED, even if it may replace."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(b.keeper.deploy(ORDER))
            await b.engine.created.wait()
            with pytest.raises(Aborted) as caught:
                await b.keeper.deploy(replace(OTHER, allow_replace=True))
            b.engine.gate.set()
        assert caught.value.reason == "OPERATION_IN_PROGRESS"
        assert first.result().action is ChangeAction.CREATE


async def test_a_caller_who_leaves_does_not_stop_the_deploy(tmp_path: Path) -> None:
    """Cancelling the call ends the wait; the create goes on and whoever asks next joins it."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        call = asyncio.ensure_future(b.keeper.deploy(ORDER))
        await b.engine.created.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.PENDING
        b.engine.gate.set()
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE
        assert b.engine.asked == ["create"]


async def test_those_who_joined_share_the_failure(tmp_path: Path) -> None:
    """A create that fails fails for all who asked for it, and is tried once."""
    async with bench(tmp_path) as b:
        b.engine.failures["create"] = FailedPrecondition("port 80 is taken", reason="PORT_IN_USE")
        done = await asyncio.gather(*(b.keeper.deploy(ORDER) for _ in range(5)), return_exceptions=True)
        assert {getattr(error, "reason", None) for error in done} == {"PORT_IN_USE"}
        assert b.engine.asked.count("create") == 1


async def test_the_record_is_durable_before_the_backend_is_touched(tmp_path: Path) -> None:
    """While the backend creates, the manifest is already on disk."""
    async with bench(tmp_path) as b:
        b.engine.gate.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(b.keeper.deploy(ORDER))
            await b.engine.created.wait()
            (file,) = (tmp_path / "workloads").glob("*.json")
            assert '"phase":"DEPLOYING"' in file.read_text()
            b.engine.gate.set()


async def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    """No record, no objects, no entry in the list; the same deploy may be tried again."""
    async with bench(tmp_path) as b:
        b.engine.failures["create"] = FailedPrecondition("no such image", reason="IMAGE_NOT_FOUND")
        with pytest.raises(FailedPrecondition) as caught:
            await b.keeper.deploy(ORDER)
        assert "leftovers" not in caught.value.metadata
        assert b.engine.last_destroy == (None, True, False)
        assert list((tmp_path / "workloads").iterdir()) == []
        with pytest.raises(NotFound):
            await b.keeper.get(WORKLOAD)
        b.engine.failures.clear()
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.CREATE


async def test_a_defect_of_the_engine_leaves_nothing_either(tmp_path: Path) -> None:
    """An unexpected exception is cleaned up after like any other."""

    class Broken(FakeEngine):
        async def create(self, spec: object) -> None:
            raise KeyError("oops")

    async with bench(tmp_path, Broken()) as b:
        with pytest.raises(KeyError):
            await b.keeper.deploy(ORDER)
        assert list((tmp_path / "workloads").iterdir()) == []


async def test_a_failed_clean_up_is_said_and_healed_by_the_next_deploy(tmp_path: Path) -> None:
    """The record stays in DEPLOYING and the error says leftovers; the next deploy destroys them first."""
    async with bench(tmp_path) as b:
        b.engine.failures |= {"create": unreachable(), "destroy": unreachable()}
        with pytest.raises(Unavailable) as caught:
            await b.keeper.deploy(ORDER)
        assert caught.value.metadata["leftovers"] == "true"
        assert b.records.all()[0].phase is Phase.DEPLOYING
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.FAILED
        b.engine.failures.clear()
        b.engine.asked.clear()
        assert (await b.keeper.deploy(OTHER)).action is ChangeAction.CREATE
        assert b.engine.asked == ["destroy", "create"]


async def test_a_replace_whose_destroy_fails_is_not_killed(tmp_path: Path) -> None:
    """What could not be stopped gently is not destroyed by force; the record says that the work was cut."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.failures["destroy"] = unreachable()
        with pytest.raises(Unavailable) as caught:
            await b.keeper.deploy(replace(OTHER, allow_replace=True))
        assert caught.value.metadata["leftovers"] == "true"
        assert b.engine.asked == ["create", "destroy"]
        assert b.engine.last_destroy == (None, False, False)
        assert WORKLOAD in b.engine.objects


async def test_a_cut_creation_is_finished_by_the_same_deploy(tmp_path: Path) -> None:
    """The engine stopped in the middle: after the restart the leftovers go and it is created."""
    async with bench(tmp_path, drain=0.05) as b:
        b.engine.gate.clear()
        call = asyncio.ensure_future(b.keeper.deploy(ORDER))
        await b.engine.created.wait()
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "ENGINE_STOPPING"
    b.engine.gate.set()
    b.engine.asked.clear()
    async with bench(tmp_path, b.engine) as b:
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.FAILED
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.CREATE
        assert b.engine.asked == ["destroy", "create"]


async def test_objects_without_a_record_are_adopted(tmp_path: Path) -> None:
    """The record was lost and the labels have the same hash: it is NONE, nothing is touched, the manifest is kept."""
    async with bench(tmp_path / "lost") as b:
        await b.keeper.deploy(ORDER)
    async with bench(tmp_path / "new", b.engine) as b:
        with pytest.raises(NotFound) as caught:
            await b.keeper.inside.record(WORKLOAD)
        assert caught.value.reason == "MANIFEST_NOT_KEPT"
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE
        assert b.engine.asked == ["create"]
        assert (await b.keeper.inside.record(WORKLOAD)).manifest == POD


async def test_other_objects_without_a_record_are_not_replaced_by_chance(tmp_path: Path) -> None:
    """Objects of this workload with another hash are someone's work: ALREADY_EXISTS, unless it may replace."""
    engine = FakeEngine()
    foreign = Ownership(node_id=NODE, deployment_id="web", workload_id=WORKLOAD, manifest_hash="0" * 16)
    engine.objects[WORKLOAD] = observed(foreign, "old")
    async with bench(tmp_path, engine) as b:
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(ORDER)
        assert (await b.keeper.deploy(replace(ORDER, allow_replace=True))).action is ChangeAction.REPLACE


async def test_objects_that_vanished_are_made_anew(tmp_path: Path) -> None:
    """The record is there, the backend has nothing: CREATE, with the same or other content."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.engine.objects.clear()
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.CREATE
        b.engine.objects.clear()
        assert (await b.keeper.deploy(OTHER)).action is ChangeAction.CREATE


async def test_validate_only_touches_nothing(tmp_path: Path) -> None:
    """It tells the action that a deploy would take, for each case."""
    async with bench(tmp_path) as b:
        foreseen = await b.keeper.deploy(replace(ORDER, validate_only=True))
        assert foreseen.action is ChangeAction.CREATE
        assert foreseen.workload.state is WorkloadState.PENDING
        assert (b.engine.asked, b.records.all()) == ([], [])
        await b.keeper.deploy(ORDER)
        assert (await b.keeper.deploy(replace(ORDER, validate_only=True))).action is ChangeAction.NONE
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(replace(OTHER, validate_only=True))
        would = await b.keeper.deploy(replace(OTHER, validate_only=True, allow_replace=True))
        assert (would.action, would.workload.generation) == (ChangeAction.REPLACE, 2)
        assert b.engine.asked == ["create"]
        assert (await b.keeper.inside.record(WORKLOAD)).manifest == POD


@pytest.mark.parametrize("why", ["", "the probe timed out"])
async def test_a_backend_that_is_down_is_unavailable_and_nothing_is_written(tmp_path: Path, why: str) -> None:
    """Whether the monitor knows it already or the backend is found silent."""
    async with bench(tmp_path) as b:
        b.why_unreachable = why
        b.engine.silent = True
        with pytest.raises(Unavailable) as caught:
            await b.keeper.deploy(ORDER)
        assert caught.value.reason == "BACKEND_UNREACHABLE"
        assert b.records.all() == []


async def test_what_the_engine_cannot_honour_is_refused_with_its_line(tmp_path: Path) -> None:
    """All such fields are in the error; warnings are not errors and come back with the answer."""
    async with bench(tmp_path) as b:
        b.engine.issues = [ERROR, WARNING]
        with pytest.raises(FailedPrecondition) as caught:
            await b.keeper.deploy(ORDER)
        assert caught.value.reason == "UNSUPPORTED_FIELD"
        assert [(v.field_path, v.line) for v in caught.value.violations] == [("spec.x", 3)]
        assert b.engine.asked == []
        b.engine.issues = [WARNING]
        assert (await b.keeper.deploy(ORDER)).issues == (WARNING,)


async def test_warn_mode_goes_on_and_tells(tmp_path: Path) -> None:
    """With WARN what would be dropped is returned; an unknown option is refused all the same."""
    async with bench(tmp_path) as b:
        b.engine.issues = [ERROR]
        told = (await b.keeper.deploy(replace(ORDER, lenient=True))).issues
        assert told == (replace(ERROR, severity=Severity.WARNING),)
        b.engine.issues = [replace(ERROR, reason="UNKNOWN_OPTION")]
        with pytest.raises(InvalidArgument) as caught:
            await b.keeper.deploy(replace(ORDER, lenient=True))
        assert caught.value.reason == "UNKNOWN_OPTION"


async def test_another_language_is_an_unsupported_kind(tmp_path: Path) -> None:
    """A Compose file, and a kind that the engine does not have, on an engine that runs Pods."""
    async with bench(tmp_path) as b:
        for text in (
            "services:\n  web:\n    image: example:1\n",
            POD + "---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n",
        ):
            with pytest.raises(FailedPrecondition) as caught:
                await b.keeper.deploy(replace(ORDER, text=text))
            assert caught.value.reason == "UNSUPPORTED_KIND"
        assert b.engine.asked == []


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (replace(ORDER, workload_id=""), "workload_id"),
        (replace(ORDER, workload_id="Web"), "workload_id"),
        (replace(ORDER, workload_id="../x"), "workload_id"),
        (replace(ORDER, workload_id="a" * 58), "workload_id"),
        (replace(ORDER, manifest_id=""), "manifest_id"),
        (replace(ORDER, manifest_id="a_b"), "manifest_id"),
        (replace(ORDER, text=""), "manifest.content"),
        (replace(ORDER, format=Format.COMPOSE), "manifest.format"),
        (replace(ORDER, text=POD.replace("image", "imag")), "spec.containers[0].image"),
    ],
)
async def test_a_bad_order_names_its_field(tmp_path: Path, order: DeployOrder, field: str) -> None:
    """INVALID_ARGUMENT, and nothing is touched."""
    async with bench(tmp_path) as b:
        with pytest.raises(InvalidArgument) as caught:
            await b.keeper.deploy(order)
        assert caught.value.violations[0].field_path == field
        assert b.engine.asked == []


async def test_scaled_to_zero_is_no_loss(tmp_path: Path) -> None:
    """With no replicas the backend has nothing, and the workload is STOPPED, listed, kept, and NONE the next time."""

    class Empty(FakeEngine):
        async def create(self, spec: object) -> None:
            self.asked.append("create")

    none = replace(ORDER, config=Config(replicas=0))
    async with bench(tmp_path, Empty()) as b:
        assert (await b.keeper.deploy(none)).workload.state is WorkloadState.STOPPED
        await b.keeper.refresh()
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.STOPPED
        assert (await b.keeper.deploy(none)).action is ChangeAction.NONE
        with pytest.raises(AlreadyExists):
            await b.keeper.deploy(ORDER)
        assert b.engine.asked == ["create"]


async def test_a_stopping_engine_takes_no_new_workload(tmp_path: Path) -> None:
    """Deploys are refused with ENGINE_DRAINING; reads and removals go on."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
        b.keeper.drain()
        with pytest.raises(FailedPrecondition) as caught:
            await b.keeper.deploy(ORDER)
        assert caught.value.reason == "ENGINE_DRAINING"
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.RUNNING
        assert await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD)) is not None


async def test_an_unreadable_record_is_never_overwritten(tmp_path: Path) -> None:
    """A deploy of that workload is DATA_LOSS naming the file; the engine runs, and its objects can still be removed."""
    async with bench(tmp_path) as b:
        await b.keeper.deploy(ORDER)
    (file,) = (tmp_path / "workloads").iterdir()
    file.write_text("{ broken")
    async with bench(tmp_path, b.engine) as b:
        for call in (b.keeper.deploy(ORDER), b.keeper.inside.record(WORKLOAD)):
            with pytest.raises(DataLoss, match=file.name):
                await call
        assert WORKLOAD in b.keeper.unreadable_records
        assert (await b.keeper.get(WORKLOAD)).state is WorkloadState.RUNNING
        await b.keeper.remove(RemoveOrder(workload_id=WORKLOAD))
        assert b.engine.objects == {}
        assert file.read_text() == "{ broken"


async def test_a_backend_that_falls_silent_after_the_create_makes_the_state_unknown(tmp_path: Path) -> None:
    """The deploy succeeded; how it is now nobody can say."""

    class Fading(FakeEngine):
        async def create(self, spec: object) -> None:
            await super().create(spec)  # type: ignore[arg-type]  # object keeps the import out
            self.silent = True

    async with bench(tmp_path, Fading()) as b:
        done = await b.keeper.deploy(ORDER)
        assert (done.action, done.workload.state) == (ChangeAction.CREATE, WorkloadState.UNKNOWN)
