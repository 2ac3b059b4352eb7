"""What happens behind the orchestrator: a part that is gone, a job that was cleaned away, a restart by policy."""

from __future__ import annotations

from services.orchestrator.model import State
from services.orchestrator.requests import ApplyRequest
from services.orchestrator.steps import FAILED, RUNNING, STARTING, SUCCEEDED
from tests.unit.orchestrator.conftest import Core, Start
from tests.unit.orchestrator.fakes import POD, FakeEngines, view
from tests.unit.orchestrator.test_apply import ID, applied


def reasons(core: Core) -> list[str]:
    """What its history tells."""
    return [event.reason for event in core.history.of(ID)]


async def looked(core: Core) -> None:
    """The reconciler has been told that anything may have changed, and has looked."""
    before = core.engines.looks
    core.reconciler.touch("")
    await core.until(lambda: core.engines.looks > before)


async def test_a_workload_that_has_lost_a_part_is_made_anew_once(start: Start) -> None:
    """Though the rest of it runs, or nothing does: one repair, and the events say so."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        podman, workload = core.engines["podman"], core.book.get(ID).workload_id
        for number, state in enumerate((RUNNING, FAILED), 1):
            podman.workloads[workload] = (podman.workloads[workload][0], state)
            podman.incomplete.add(workload)
            core.reconciler.touch(workload)
            await core.until(lambda: not podman.incomplete and core.book.get(ID).state is State.ACTIVE)
            assert (reasons(core).count("DRIFTED"), reasons(core).count("REPAIRING")) == (number, number)
        assert podman.calls.count("deploy") == 3


async def test_a_part_that_is_there_after_all_is_not_repaired(start: Start) -> None:
    """The engine is asked again before anything is made anew: one reading may be wrong."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        podman, workload = core.engines["podman"], core.book.get(ID).workload_id
        podman.incomplete.add(workload)
        podman.misread = True
        podman.calls.clear()
        core.reconciler.touch(workload)
        await core.until(lambda: "plan" in podman.calls)
        assert "deploy" not in podman.calls
        assert core.book.get(ID).state is State.ACTIVE
        assert "DRIFTED" not in reasons(core)


async def test_what_is_seen_late_is_not_made_anew(start: Start) -> None:
    """A view that has yet to hear of the deploy that is just done says that nothing is there: the engine is asked."""
    async with start(FakeEngines(view("podman"))) as core:
        await applied(core)
        podman = core.engines["podman"]
        podman.late = True
        podman.calls.clear()
        await looked(core)
        await core.until(lambda: "plan" in podman.calls)
        assert core.book.get(ID).state is State.ACTIVE
        assert "DRIFTED" not in reasons(core)


async def test_a_job_that_is_done_may_be_cleaned_away(start: Start) -> None:
    """What has ended well is not run once more because its containers were removed."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].settles_in = SUCCEEDED
        await applied(core)
        core.engines["podman"].workloads.clear()
        await looked(core)
        assert core.book.get(ID).state is State.SUCCEEDED
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_what_has_come_to_rest_is_looked_at_though_nothing_changes(start: Start) -> None:
    """The very first restart is told, also where the engine had nothing to say between the deploy and it."""
    async with start(FakeEngines(view("podman"))) as core:
        podman = core.engines["podman"]
        before = core.engines.looks
        await applied(core)
        await core.until(lambda: core.engines.looks > before)
        podman.restarts = {"0/main": 1}
        core.reconciler.touch("")
        await core.until(lambda: "COMPONENT_RESTARTED" in reasons(core))


async def test_what_the_engine_starts_again_is_told(start: Start) -> None:
    """Each restart by policy is an event that names the component; what was before this process is not told again."""
    engines = FakeEngines(view("podman"))
    podman = engines["podman"]
    async with start(engines) as core:
        await applied(core)
        await looked(core)
        podman.restarts = {"0/main": 6, "0/side": 1}
        core.reconciler.touch("")
        await core.until(lambda: reasons(core).count("COMPONENT_RESTARTED") == 2)
        told = [event.message for event in core.history.of(ID) if event.reason == "COMPONENT_RESTARTED"]
        assert told == ["0/main had ended; restarts so far: 6", "0/side had ended; restarts so far: 1"]
    podman.view = view("podman", available=False)
    async with start(engines) as core:
        await looked(core)
        podman.view = view("podman")
        await looked(core)
        assert reasons(core).count("COMPONENT_RESTARTED") == 2


async def test_a_restart_right_after_the_deploy_is_told(start: Start) -> None:
    """The count is taken from the first that is seen of a workload, while it is still being deployed."""
    async with start(FakeEngines(view("podman"))) as core:
        podman = core.engines["podman"]
        podman.settles_in = STARTING
        accepted = await core.applier.apply(ApplyRequest(manifest=POD))
        await core.until(lambda: bool(podman.workloads))
        await looked(core)
        podman.workloads[accepted.deployment.workload_id] = (accepted.deployment.wish.canonical_digest, RUNNING)
        await core.until(lambda: core.book.get(ID).state is State.ACTIVE)
        podman.restarts = {"0/main": 1}
        core.reconciler.touch("")
        await core.until(lambda: "COMPONENT_RESTARTED" in reasons(core))
