"""The apply flow on engines in memory: idempotency, fallback with a fence, room, and what a restart finds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.errors import (
    Aborted,
    BeemeshError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from services.orchestrator import flow
from services.orchestrator.flow import Outcome
from services.orchestrator.model import Action, State, Step
from services.orchestrator.requests import ApplyRequest
from services.orchestrator.steps import FAILED, RUNNING, SUCCEEDED
from tests.unit.orchestrator.conftest import Core, Start
from tests.unit.orchestrator.fakes import POD, FakeEngines, FakeProviders, view

ID = "pod-default-web"
OTHER = POD.replace("busybox:1", "busybox:2")
HUNGRY = """\
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers:
  - {name: main, image: "localhost/busybox:1", resources: {requests: {memory: 5Gi}}}
"""


async def applied(core: Core, manifest: str = POD, **more: object) -> tuple[Action, State]:
    accepted = await core.applier.apply(ApplyRequest(manifest=manifest, **more))  # type: ignore[arg-type]
    record = await core.operations.settled(accepted.deployment.deployment_id, accepted.deployment.generation, 5)
    return accepted.action, record.state


async def test_an_apply_ends_active_on_one_engine_and_is_announced(start: Start) -> None:
    """An apply ends ACTIVE, on one engine, announced with its name."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        assert await applied(core) == (Action.CREATE, State.ACTIVE)
        workload = core.book.get(ID).workload_id
        assert core.engines.copies(workload) == ["podman"]
        await core.until(lambda: core.outbox.announced(ID))
        assert core.providers.said[ID] == {"runtime_engine": "podman", "workload_id": workload}


async def test_the_same_apply_again_is_none_and_touches_nothing(start: Start) -> None:
    """The same apply twice is NONE."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        calls = list(core.engines["podman"].calls)
        assert await applied(core, POD + "# a comment\n") == (Action.NONE, State.ACTIVE)
        assert core.engines["podman"].calls == calls
        assert core.book.get(ID).generation == 1


async def test_twenty_identical_applies_at_once_deploy_once(start: Start) -> None:
    """One CREATE, nineteen NONE, one deploy."""
    async with start(FakeEngines(view("podman"))) as core:
        answers = await asyncio.gather(*(applied(core) for _ in range(20)))
        assert sorted(action.name for action, _ in answers) == ["CREATE", *["NONE"] * 19]
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_of_two_different_applies_at_once_one_is_aborted(start: Start) -> None:
    """One wins, one is ABORTED."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].gate = asyncio.Event()
        one = asyncio.create_task(applied(core, POD))
        other = asyncio.create_task(applied(core, OTHER))
        done, _ = await asyncio.wait([one, other], return_when=asyncio.FIRST_COMPLETED)
        core.engines["podman"].gate.set()
        (lost,) = done
        assert isinstance(lost.exception(), Aborted)
        winner = one if lost is other else other
        assert await winner == (Action.CREATE, State.ACTIVE)


async def test_another_content_replaces(start: Start) -> None:
    """A changed manifest is a new generation and revision on the same engine, in one copy."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core)
        assert await applied(core, OTHER) == (Action.REPLACE, State.ACTIVE)
        record = core.book.get(ID)
        assert (record.generation, record.revision, record.touched) == (2, 2, ("podman",))


async def test_a_failed_engine_is_fenced_before_the_next_is_tried(start: Start) -> None:
    """An engine that did the work and then failed is emptied before another one runs it."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        podman = core.engines["podman"]
        podman.fail_deploy, podman.work_then_fail = [Unavailable("cut", reason="BACKEND_UNREACHABLE")], True
        assert await applied(core) == (Action.CREATE, State.ACTIVE)
        record = core.book.get(ID)
        assert core.engines.copies(record.workload_id) == ["docker"]
        assert [(a.engine_id, a.fenced) for a in record.attempts] == [("podman", True), ("docker", False)]
        assert record.decision.fell_back
        assert record.touched == ("docker",)


async def test_without_a_fence_there_is_no_second_copy(start: Start) -> None:
    """A failed engine that cannot be reached leaves the deployment DEGRADED until it can; then it heals."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        podman = core.engines["podman"]
        podman.fail_deploy, podman.work_then_fail = [DeadlineExceeded("slow", reason="BACKEND_TIMEOUT")], True
        podman.fail_remove = [Unavailable("down", reason="BACKEND_UNREACHABLE")] * 2
        assert await applied(core) == (Action.CREATE, State.DEGRADED)
        workload = core.book.get(ID).workload_id
        assert core.engines.copies(workload) == ["podman"]
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE)
        assert len(core.engines.copies(workload)) == 1


async def test_an_unknown_outcome_without_another_engine_is_tried_again(start: Start) -> None:
    """With nowhere else to go the same engine is asked again, and the answer says why it is DEGRADED."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].fail_deploy = [Unavailable("down", reason="BACKEND_UNREACHABLE")]
        assert await applied(core) == (Action.CREATE, State.DEGRADED)
        failure = core.book.get(ID).failure
        assert failure is not None
        assert failure.reason == "BACKEND_UNREACHABLE"
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE)


@pytest.mark.parametrize("reason", ["IMAGE_NOT_FOUND", "PORT_IN_USE"])
async def test_a_failure_of_the_manifest_does_not_fall_back(start: Start, reason: str) -> None:
    """What no other engine could do better fails at once, and leaves nothing."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        core.engines["podman"].fail_deploy = [FailedPrecondition("no", reason=reason)]
        assert await applied(core) == (Action.CREATE, State.FAILED)
        record = core.book.get(ID)
        assert (record.touched, core.engines["docker"].calls) == ((), [])
        assert record.failure is not None
        assert record.failure.reason == reason


async def test_a_refused_update_leaves_the_old_revision_running(start: Start) -> None:
    """An update that its engine refuses before touching anything does not orphan what runs."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        core.engines["podman"].fail_deploy = [FailedPrecondition("no", reason="IMAGE_NOT_FOUND")]
        assert await applied(core, OTHER) == (Action.REPLACE, State.FAILED)
        record = core.book.get(ID)
        assert record.touched == ("podman",)
        core.reconciler.touch(record.workload_id)
        await asyncio.sleep(0.05)
        assert core.book.get(ID).state is State.FAILED, "that the old one runs does not make the new one ACTIVE"
        await core.applier.delete(ID)
        await core.operations.settled(ID, record.generation, 5)
        assert core.engines.copies(record.workload_id) == []


async def test_nothing_is_recorded_when_no_engine_can_take_it(start: Start) -> None:
    """A refusal names each candidate and leaves no trace."""
    down = {"available": False, "reason": "UNHEALTHY"}
    async with start(FakeEngines(view("podman", **down), view("docker", **down), view("mock"))) as core:
        with pytest.raises(Unavailable) as caught:
            await applied(core)
        assert {"engine.podman", "engine.docker"} == set(caught.value.metadata)
        assert core.book.all(gone=True) == []
        assert core.engines["mock"].calls == []


async def test_an_update_does_not_leave_an_engine_that_cannot_be_fenced(start: Start) -> None:
    """A deployment whose engine is out of reach stays there."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core)
        core.engines["podman"].view = replace(view("podman"), available=False, reason="UNHEALTHY")
        with pytest.raises(Unavailable, match="stays where it is"):
            await applied(core, OTHER)
        assert core.engines.copies(core.book.get(ID).workload_id) == ["podman"]


async def test_it_stays_where_it_fell_back_to(start: Start) -> None:
    """When the preferred engine returns, the same apply is NONE and an update stays too."""
    async with start(FakeEngines(view("podman", available=False, reason="UNHEALTHY"), view("docker"))) as core:
        await applied(core)
        core.engines["podman"].view = view("podman")
        assert await applied(core) == (Action.NONE, State.ACTIVE)
        assert await applied(core, OTHER) == (Action.REPLACE, State.ACTIVE)
        assert core.engines.copies(core.book.get(ID).workload_id) == ["docker"]


async def test_naming_another_engine_moves_it_without_two_copies(start: Start) -> None:
    """A move empties the old engine first."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core)
        assert (await applied(core, engine_id="docker"))[1] is State.ACTIVE
        assert core.engines.copies(core.book.get(ID).workload_id) == ["docker"]
        await core.until(lambda: core.providers.said.get(ID, {}).get("runtime_engine") == "docker")


async def test_a_deletion_with_volumes_takes_those_too_that_a_move_has_kept(start: Start) -> None:
    """Where it ran before, its volumes are kept; they go when volumes are to go, though it was deleted meanwhile."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:

        async def kept(*, remove_volumes: bool) -> list[str]:
            record = await core.applier.delete(ID, remove_volumes=remove_volumes)
            await core.operations.settled(ID, record.generation, 5)
            return [name for name, engine in core.engines.engines.items() if record.workload_id in engine.volumes]

        await applied(core)
        await applied(core, engine_id="docker")
        assert await kept(remove_volumes=False) == ["podman", "docker"]
        await applied(core, engine_id="docker")
        assert await kept(remove_volumes=True) == []


async def test_a_deletion_with_volumes_waits_for_an_engine_that_may_have_kept_some(start: Start) -> None:
    """What runs is removed at once; the deletion ends when the other engine has confirmed."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core)
        await applied(core, engine_id="docker")
        core.engines["podman"].fail_remove = [Unavailable("down", reason="BACKEND_UNREACHABLE")]
        record = await core.applier.delete(ID, remove_volumes=True)
        assert (await core.operations.settled(ID, record.generation, 5)).state is State.DELETING
        assert core.engines.copies(record.workload_id) == []
        await core.until(lambda: core.book.find(ID) is None)
        assert core.engines["podman"].volumes == set()


async def test_room_is_one_for_the_node_and_freed_by_removal(start: Start) -> None:
    """What does not fit beside the others is refused with asked and free; removing one lets it in."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        await applied(core, HUNGRY.replace("NAME", "one"))
        with pytest.raises(ResourceExhausted, match="memory asked"):
            await applied(core, HUNGRY.replace("NAME", "two"), engine_id="docker")
        await core.applier.delete("pod-default-one")
        await core.until(lambda: core.book.find("pod-default-one") is None)
        assert (await applied(core, HUNGRY.replace("NAME", "two")))[1] is State.ACTIVE


async def test_room_is_promised_once(start: Start) -> None:
    """Of two that fit alone but not together, applied at once, one is refused."""
    async with start(FakeEngines(view("podman"))) as core:
        answers = await asyncio.gather(
            *(applied(core, HUNGRY.replace("NAME", name)) for name in ("one", "two")), return_exceptions=True
        )
        assert sum(isinstance(answer, ResourceExhausted) for answer in answers) == 1


async def test_a_deletion_withdraws_and_removes(start: Start) -> None:
    """After a deletion there is no copy, no announcement, and the name is free again."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        await core.until(lambda: core.outbox.announced(ID))
        record = await core.applier.delete(ID)
        record = await core.operations.settled(ID, record.generation, 5)
        assert (record.state, record.step) == (State.DELETED, Step.GONE)
        assert core.engines.copies(record.workload_id) == []
        await core.until(lambda: ID not in core.providers.said)
        with pytest.raises(NotFound):
            await core.applier.delete(ID)
        assert await applied(core) == (Action.CREATE, State.ACTIVE)


async def test_a_deletion_overtakes_a_deploy_under_way(start: Start) -> None:
    """Deleting what is being deployed ends with nothing."""
    async with start(FakeEngines(view("podman"))) as core:
        podman = core.engines["podman"]
        podman.gate = asyncio.Event()
        accepted = await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: "deploy" in podman.calls)
        await core.applier.delete(ID)
        podman.gate.set()
        record = await core.operations.settled(ID, accepted.deployment.generation, 5)
        assert record.state is State.DELETED
        assert core.engines.copies(record.workload_id) == []


async def test_a_deletion_waits_for_a_backend_that_is_away(start: Start) -> None:
    """A removal once accepted is carried out when the engine is back."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        core.engines["podman"].fail_remove = [Unavailable("down", reason="BACKEND_UNREACHABLE")]
        record = await core.applier.delete(ID)
        assert (await core.operations.settled(ID, record.generation, 5)).state is State.DELETING
        await core.until(lambda: core.book.find(ID) is None)
        assert core.engines.copies(record.workload_id) == []


@pytest.mark.parametrize(("ends_in", "state"), [(SUCCEEDED, State.SUCCEEDED), (FAILED, State.FAILED)])
async def test_a_workload_that_ends_is_told_as_it_ended(start: Start, ends_in: int, state: State) -> None:
    """A job that ends well is SUCCEEDED, a workload that breaks is FAILED; neither is announced."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].settles_in = ends_in
        assert await applied(core) == (Action.CREATE, state)
        assert ID not in core.providers.said


async def test_what_vanished_is_made_anew_and_told(start: Start) -> None:
    """A workload removed behind our back is repaired once, and events say so."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        workload = core.book.get(ID).workload_id
        core.engines["podman"].workloads.clear()
        core.reconciler.touch(workload)
        await core.until(lambda: workload in core.engines["podman"].workloads)
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE and core.outbox.announced(ID))
        reasons = [event.reason for event in core.history.of(ID)]
        assert (reasons.count("DRIFTED"), reasons.count("REPAIRING")) == (1, 1)


async def test_what_vanishes_again_and_again_is_left_alone(start: Start) -> None:
    """After three repairs it stays FAILED, withdrawn, with the reason, until it is applied again."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        workload = core.book.get(ID).workload_id
        for _ in range(3):
            core.engines["podman"].workloads.clear()
            core.reconciler.touch(workload)
            await core.until(lambda: workload in core.engines["podman"].workloads)
            await core.until(lambda: core.book.get(ID).state is State.ACTIVE)
        core.engines["podman"].workloads.clear()
        core.reconciler.touch(workload)
        await core.until(lambda: core.book.get(ID).state is State.FAILED)
        await core.until(lambda: ID not in core.providers.said)
        failure = core.book.get(ID).failure
        assert failure is not None
        assert failure.reason == "WORKLOAD_GONE"
        assert (await applied(core))[1] is State.ACTIVE


async def test_a_manifest_may_ask_to_be_told_only(start: Start) -> None:
    """With the drift policy `report` what vanished stays gone."""
    reported = POD.replace("{name: web}", "{name: web, annotations: {beemesh.io/drift-policy: report}}")
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core, reported)
        core.engines["podman"].workloads.clear()
        core.reconciler.touch("")
        await core.until(lambda: core.book.get(ID).state is State.FAILED)
        await asyncio.sleep(0.05)
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_a_request_id_names_one_apply(start: Start) -> None:
    """The same request_id gives the same deployment, also after a restart; with other content it is refused."""
    engines = FakeEngines(view("podman"))
    async with start(engines) as core:
        await applied(core, request_id="r1")
    async with start(engines) as core:
        assert await applied(core, request_id="r1") == (Action.NONE, State.ACTIVE)
        with pytest.raises(InvalidArgument, match="used for another apply"):
            await applied(core, OTHER, request_id="r1")


async def test_a_repeated_request_is_told_its_failure_and_tries_nothing(start: Start) -> None:
    """Asking again with the request_id of an apply that failed gives that apply's failure, and no second attempt."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].fail_deploy = [FailedPrecondition("no", reason="IMAGE_NOT_FOUND")]
        assert await applied(core, request_id="r1") == (Action.CREATE, State.FAILED)
        assert await applied(core, request_id="r1") == (Action.NONE, State.FAILED)
        assert (core.book.get(ID).generation, core.engines["podman"].calls.count("deploy")) == (1, 1)
        assert await applied(core, request_id="r2") == (Action.CREATE, State.ACTIVE)


async def test_a_repeated_request_needs_no_fresh_etag(start: Start) -> None:
    """The etag was right when the request was accepted; its repeat finds the deployment all the same."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        etag = core.book.get(ID).etag
        assert await applied(core, OTHER, etag=etag, request_id="r1") == (Action.REPLACE, State.ACTIVE)
        assert await applied(core, OTHER, etag=etag, request_id="r1") == (Action.NONE, State.ACTIVE)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_repeat_that_comes_too_late_undoes_nothing(start: Start, gone: bool) -> None:
    """Once another request came after it, or the deployment was deleted, the repeat of a request is ABORTED."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core, request_id="r1")
        if gone:
            await core.applier.delete(ID)
            await core.until(lambda: core.book.find(ID) is None)
        else:
            await applied(core, OTHER)
        with pytest.raises(Aborted, match="another one came after it") as caught:
            await applied(core, request_id="r1")
        assert caught.value.reason == "SUPERSEDED"
        assert bool(core.engines["podman"].workloads) is not gone


async def test_a_repeated_rollback_goes_no_further_back(start: Start) -> None:
    """The same request_id goes back once; without it each call goes further."""
    async with start(FakeEngines(view("podman"))) as core:
        for number in (1, 2, 3):
            await applied(core, POD.replace("busybox:1", f"busybox:{number}"))
        for action in (Action.REPLACE, Action.NONE):
            accepted = await core.applier.roll_back(ID, 0, request_id="r1")
            await core.operations.settled(ID, accepted.deployment.generation, 5)
            assert accepted.action is action
        assert "busybox:2" in core.book.get(ID).wish.manifest
        assert core.book.get(ID).generation == 4
        with pytest.raises(InvalidArgument, match="used for another apply"):
            await applied(core, POD, request_id="r1")


async def test_a_stale_etag_is_aborted(start: Start) -> None:
    """An etag that is not the current one ends in ABORTED, for apply and delete."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        etag = core.book.get(ID).etag
        await applied(core, OTHER, etag=etag)
        for attempt in (applied(core, POD, etag=etag), core.applier.delete(ID, etag=etag)):
            with pytest.raises(Aborted):
                await attempt


async def test_a_dry_run_touches_nothing(start: Start) -> None:
    """validate_only says what would be, and leaves no record and no call but the question."""
    async with start(FakeEngines(view("podman"))) as core:
        accepted = await core.applier.apply(ApplyRequest(manifest=POD, validate_only=True))
        assert (accepted.action, accepted.deployment.engine_id) == (Action.CREATE, "podman")
        assert core.book.all(gone=True) == []
        assert core.engines["podman"].calls == ["validate"]


async def test_an_earlier_revision_can_be_applied_again(start: Start) -> None:
    """A rollback is a new revision with the old content; only so many are kept, with what became of each."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        await applied(core, OTHER)
        accepted = await core.applier.roll_back(ID, 0)
        record = await core.operations.settled(ID, accepted.deployment.generation, 5)
        assert (record.state, record.revision, record.wish.manifest) == (State.ACTIVE, 3, POD)
        kept = core.store.revisions(ID)
        assert [(item.revision, item.outcome) for item in kept] == [
            (3, State.ACTIVE),
            (2, State.ACTIVE),
            (1, State.ACTIVE),
        ]
        with pytest.raises(NotFound, match="no revision 9"):
            await core.applier.roll_back(ID, 9)
        for number in range(12):
            await applied(core, POD.replace("busybox:1", f"busybox:{number + 10}"))
        assert len(core.store.revisions(ID)) == 10


@pytest.mark.parametrize("broken", [True, False])
async def test_a_failed_update_rolls_back_when_asked_to(start: Start, broken: bool) -> None:
    """Refused or broken, the last good wish runs again; the state and the failure say what happened."""
    async with start(FakeEngines(view("podman"))) as core:
        podman = core.engines["podman"]
        await applied(core)
        if broken:
            podman.settles_once = FAILED
        else:
            podman.fail_deploy = [FailedPrecondition("no", reason="IMAGE_NOT_FOUND")]
        assert await applied(core, OTHER, rollback_on_failure=True) == (Action.REPLACE, State.ROLLED_BACK)
        record = core.book.get(ID)
        assert (record.wish.manifest, record.revision) == (POD, 3)
        assert record.failure is not None
        assert record.failure.reason == ("WORKLOAD_FAILED" if broken else "IMAGE_NOT_FOUND")
        assert core.engines["podman"].workloads[record.workload_id] == (record.wish.canonical_digest, RUNNING)
        await core.until(lambda: core.outbox.announced(ID))
        assert await applied(core, OTHER) == (Action.REPLACE, State.ACTIVE)


async def test_a_first_apply_has_nothing_to_roll_back_to(start: Start) -> None:
    """It fails as it would without."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].fail_deploy = [FailedPrecondition("no", reason="IMAGE_NOT_FOUND")]
        assert (await applied(core, rollback_on_failure=True))[1] is State.FAILED


async def controlled(core: Core, outcome: Outcome) -> State:
    record = await core.applier.control(ID, outcome)
    return (await core.operations.settled(ID, record.generation, 5)).state


async def test_a_stopped_deployment_stays_stopped_until_it_is_started(start: Start) -> None:
    """Stop keeps the workload, withdraws the announcement and survives a restart; start does not recreate."""
    engines, providers = FakeEngines(view("podman")), FakeProviders()
    async with start(engines, providers) as core:
        await applied(core)
        assert await controlled(core, Outcome.STOP) is State.STOPPED
        assert await controlled(core, Outcome.STOP) is State.STOPPED
        await core.until(lambda: ID not in providers.said)
    async with start(engines, providers) as core:
        core.reconciler.touch(core.book.get(ID).workload_id)
        await asyncio.sleep(0.05)
        assert core.book.get(ID).state is State.STOPPED
        with pytest.raises(FailedPrecondition, match="nothing to restart"):
            await core.applier.control(ID, Outcome.RESTART)
        assert await controlled(core, Outcome.START) is State.ACTIVE
        assert engines["podman"].calls.count("deploy") == 1
        await core.until(lambda: ID in providers.said)
        await core.applier.delete(ID)
        await core.until(lambda: core.book.find(ID) is None)


async def test_applying_a_stopped_deployment_starts_it(start: Start) -> None:
    """The same manifest again means that it shall run."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        await controlled(core, Outcome.STOP)
        assert (await applied(core))[1] is State.ACTIVE
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_drift_is_named_and_repaired_once(start: Start) -> None:
    """What is gone is made again, with an event that says so; without drift a repair does nothing."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        assert await core.applier.drift(ID) == ()
        before = core.book.get(ID)
        assert await core.applier.repair(ID) == before
        core.engines["podman"].workloads.clear()
        assert [change.action for change in await core.applier.drift(ID)] == [Action.CREATE]
        record = await core.applier.repair(ID)
        assert (await core.operations.settled(ID, record.generation, 5)).state is State.ACTIVE
        assert "REPAIRING" in [event.reason for event in core.history.of(ID)]
        assert core.engines["podman"].calls.count("deploy") == 2


async def test_a_restart_keeps_the_workload(start: Start) -> None:
    """Restarted in place, and made anew when it turns out to be gone."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        assert await controlled(core, Outcome.RESTART) is State.ACTIVE
        assert core.engines["podman"].calls.count("deploy") == 1
        core.engines["podman"].workloads.clear()
        assert await controlled(core, Outcome.RESTART) is State.ACTIVE
        assert core.engines["podman"].calls.count("deploy") == 2


async def test_a_plan_tells_and_touches_nothing(start: Start) -> None:
    """CREATE, NONE, REPLACE and a move are foreseen; no engine is asked to change anything, and nothing is recorded."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        assert (await core.applier.plan(ApplyRequest(manifest=POD))).action is Action.CREATE
        assert core.book.all(gone=True) == []
        await applied(core)
        before = core.book.get(ID)
        assert (await core.applier.plan(ApplyRequest(manifest=POD))).action is Action.NONE
        assert (await core.applier.plan(ApplyRequest(manifest=OTHER))).action is Action.REPLACE
        moving = await core.applier.plan(ApplyRequest(manifest=POD, engine_id="docker"))
        first = moving.changes[0]
        assert (first.target, first.old_value, first.new_value) == ("engine", "podman", "docker")
        assert core.book.get(ID) == before
        assert {call for name in ("podman", "docker") for call in core.engines[name].calls} <= {
            "validate",
            "plan",
            "deploy",
            "fetch",
        }
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_a_plans_etag_applies_exactly_that_plan(start: Start) -> None:
    """What changed between plan and apply makes the apply ABORTED, also when there was nothing before."""
    async with start(FakeEngines(view("podman"))) as core:
        plan = await core.applier.plan(ApplyRequest(manifest=POD))
        await applied(core, OTHER)
        with pytest.raises(Aborted):
            await applied(core, POD, etag=plan.etag)
        plan = await core.applier.plan(ApplyRequest(manifest=POD))
        assert await applied(core, POD, etag=plan.etag) == (Action.REPLACE, State.ACTIVE)


async def test_an_interrupted_operation_is_carried_on_after_a_restart(start: Start) -> None:
    """A stop in mid-deploy loses nothing: the next start ends it, with one copy, announced."""
    engines, providers = FakeEngines(view("podman")), FakeProviders()
    engines["podman"].gate = asyncio.Event()
    async with start(engines, providers) as core:
        await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: "deploy" in engines["podman"].calls)
    engines["podman"].gate.set()
    async with start(engines, providers) as core:
        await core.until(lambda: core.outbox.announced(ID))
        record = core.book.get(ID)
        assert (record.state, engines.copies(record.workload_id)) == (State.ACTIVE, ["podman"])


async def test_what_an_engine_may_hold_is_durable_before_it_is_called(start: Start) -> None:
    """A crash in mid-deploy and a deletion right after the restart leave no orphan."""
    engines = FakeEngines(view("podman"))
    podman = engines["podman"]
    podman.gate = asyncio.Event()
    async with start(engines) as core:
        await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: "deploy" in podman.calls)
        record = core.book.get(ID)
    podman.workloads[record.workload_id] = (record.wish.canonical_digest, RUNNING)  # the engine finished it
    async with start(engines) as core:
        await core.applier.delete(ID)
        assert (await core.operations.settled(ID, record.generation, 5)).state is State.DELETED
        assert engines.copies(record.workload_id) == []


async def test_an_engine_that_came_back_is_a_candidate_again(start: Start) -> None:
    """After a fence that had to wait, the engine that failed first may run it after all."""
    async with start(FakeEngines(view("podman"), view("docker"))) as core:
        podman = core.engines["podman"]
        podman.fail_deploy = [Unavailable("cut", reason="BACKEND_UNREACHABLE")]
        podman.fail_remove = [Unavailable("down", reason="BACKEND_UNREACHABLE")]
        assert await applied(core) == (Action.CREATE, State.DEGRADED)
        core.engines["docker"].view = view("docker", available=False, reason="UNHEALTHY")
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE)
        assert core.engines.copies(core.book.get(ID).workload_id) == ["podman"]


async def test_an_engine_that_keeps_failing_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BACKEND_ERROR that does not go away ends in FAILED, not in tries for ever."""
    monkeypatch.setattr(flow, "BACKOFF_FIRST", 0.001)
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].fail_deploy = [Internal("odd", reason="BACKEND_ERROR")] * 20
        await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: core.book.get(ID).state is State.FAILED)
        assert core.engines["podman"].calls.count("deploy") == flow.INTERNAL_TRIES + 1


async def test_the_outbox_tries_again_by_itself(start: Start) -> None:
    """A provider that comes back is told without anybody's doing."""
    providers = FakeProviders()
    providers.down = True
    async with start(FakeEngines(view("podman")), providers) as core:
        await applied(core)
        await asyncio.sleep(0.3)
        providers.down = False
        await core.until(lambda: core.outbox.announced(ID))


async def test_what_cannot_be_said_keeps_nobody_waiting(start: Start) -> None:
    """However many withdrawals the provider refuses, others are said meanwhile."""

    class Picky(FakeProviders):
        async def withdraw(self, manifest_id: str) -> None:
            raise InvalidArgument("not that one", reason="BAD")

    providers = Picky()
    async with start(FakeEngines(view("podman")), providers) as core:
        for number in range(200):
            core.outbox.wanted_now(f"bad-{number}", False)
        await applied(core)
        await core.until(lambda: core.outbox.announced(ID))


async def test_who_comes_last_is_announced_before_thousands_that_wait(start: Start) -> None:
    """After a restart all is said again; what is wanted then does not wait for the end of that."""
    order: list[str] = []
    gate = asyncio.Event()

    class Slow(FakeProviders):
        async def withdraw(self, manifest_id: str) -> None:
            await gate.wait()
            order.append(manifest_id)

    async with start(FakeEngines(view("podman")), Slow()) as core:
        for number in range(500):
            core.outbox.wanted_now(f"old-{number}", False)
        await asyncio.sleep(0)
        core.outbox.wanted_now("new", False)
        gate.set()
        await core.until(lambda: len(order) == 501)
    assert order.index("new") < 100


async def test_an_announcement_waits_for_its_provider(start: Start) -> None:
    """The apply does not wait for the provider, and the outbox retries until it is out, over restarts."""
    engines, providers = FakeEngines(view("podman")), FakeProviders()
    providers.down = True
    async with start(engines, providers) as core:
        assert (await applied(core))[1] is State.ACTIVE
        assert not core.outbox.announced(ID)
    providers.down = False
    async with start(engines, providers) as core:
        await core.until(lambda: ID in providers.said)


async def test_what_no_record_wants_is_withdrawn_at_start(start: Start) -> None:
    """An announcement left over from a database that was lost does not stay."""
    providers = FakeProviders()
    providers.said["ghost"] = {}
    async with start(FakeEngines(view("podman")), providers) as core:
        await core.until(lambda: "ghost" not in providers.said)


async def test_a_nameless_manifest_needs_an_id(start: Start) -> None:
    """Compose without a name is refused on the wire and runs under the id that the client gives."""
    compose = "services: {web: {image: localhost/busybox:1}}\n"
    async with start(FakeEngines(view("docker"))) as core:
        with pytest.raises(InvalidArgument, match="deployment_id is needed"):
            await applied(core, compose)
        assert (await applied(core, compose, deployment_id="shop"))[1] is State.ACTIVE


async def test_a_defect_in_one_operation_does_not_stop_the_others(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is logged; other deployments go on."""
    async with start(FakeEngines(view("podman"))) as core:
        original = core.engines.deploy

        async def deploy(engine_id: str, deployment: object) -> object:
            if getattr(deployment, "deployment_id", "") == ID:
                raise ZeroDivisionError
            return await original(engine_id, deployment)  # type: ignore[arg-type]

        monkeypatch.setattr(core.engines, "deploy", deploy)
        await core.applier.apply(ApplyRequest(manifest=POD))
        assert (await applied(core, POD, deployment_id="other"))[1] is State.ACTIVE


def test_every_domain_error_has_a_reason() -> None:
    """A failure kept in a record raises the same error again."""
    from services.orchestrator.model import Failure

    error = ResourceExhausted("no room", reason="INSUFFICIENT_MEMORY", metadata={"a": "b"})
    again = Failure.of(error).error()
    assert isinstance(again, BeemeshError)
    assert (type(again), again.reason, again.message, again.metadata) == (
        ResourceExhausted,
        "INSUFFICIENT_MEMORY",
        "no room",
        {"a": "b"},
    )
