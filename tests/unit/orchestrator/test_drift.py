"""What happens behind the orchestrator: a part that is gone, a job that was cleaned away, a restart by policy."""

from __future__ import annotations

from services.orchestrator.model import State
from services.orchestrator.steps import FAILED, RUNNING, SUCCEEDED
from tests.unit.orchestrator.conftest import Core, Start
from tests.unit.orchestrator.fakes import FakeEngines, view
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


async def test_a_job_that_is_done_may_be_cleaned_away(start: Start) -> None:
    """What has ended well is not run once more because its containers were removed."""
    async with start(FakeEngines(view("podman"))) as core:
        core.engines["podman"].settles_in = SUCCEEDED
        await applied(core)
        core.engines["podman"].workloads.clear()
        await looked(core)
        assert core.book.get(ID).state is State.SUCCEEDED
        assert core.engines["podman"].calls.count("deploy") == 1


async def test_what_the_engine_starts_again_is_told(start: Start) -> None:
    """Each restart by policy is an event that names the component; what was before this process is not told again."""
    async with start(FakeEngines(view("podman"))) as core:
        podman = core.engines["podman"]
        podman.restarts = {"0/main": 5}
        await applied(core)
        await looked(core)
        assert "COMPONENT_RESTARTED" not in reasons(core)
        podman.restarts = {"0/main": 6, "0/side": 1}
        podman.endings = {"0/main": "137 (OOMKilled)"}
        core.reconciler.touch("")
        await core.until(lambda: reasons(core).count("COMPONENT_RESTARTED") == 2)
        told = [event.message for event in core.history.of(ID) if event.reason == "COMPONENT_RESTARTED"]
        assert told == [
            "0/main had ended with 137 (OOMKilled); restarts so far: 6",
            "0/side had ended; restarts so far: 1",
        ]
