"""Random deploys, removals, faults, losses and restarts against a plain dict of what must be there."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.engines.admission import DeployOrder
from services.engines.deployer import RemoveOrder
from services.engines.engine import Capability, ChangeAction, WorkloadState
from services.engines.listing import Listing
from services.engines.operations import Verb
from services.engines.records import Halt, Phase
from services.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Unavailable
from tests.unit.engines.fakes import OTHER_POD, POD, Bench, FakeEngine, unreachable

T = TypeVar("T")
IDS = st.sampled_from(["beemesh-a-1", "beemesh-b-1"])
TEXTS = st.sampled_from([POD, OTHER_POD])
VERBS = st.sampled_from(["create", "destroy", "observe", "update", "stop", "start"])


class Keeping(RuleBasedStateMachine):
    """`must` has the text of each workload that a caller was promised; `unsure` those whose last call failed."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.must: dict[str, str] = {}
        self.unsure: set[str] = set()
        self.stopped: dict[str, bool] = {}
        """What callers were told last of each workload; not in it: the last such call failed."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end on the machine's own loop."""
        return self.runner.run(work)

    async def patiently(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call again while something that an earlier keeper left is being finished, as a client would."""
        for _ in range(500):
            try:
                return await call()
            except Aborted as error:
                if error.reason != "OPERATION_IN_PROGRESS":
                    raise
            await asyncio.sleep(0.01)
        return await call()

    @initialize()
    def start(self) -> None:
        """A first keeper."""
        self.engine = FakeEngine()
        self.engine.capabilities |= {Capability.STOP_START, Capability.RESTART, Capability.UPDATE_IN_PLACE}
        self.run(self._start())

    async def _start(self) -> None:
        self.bench = Bench(Path(self.directory.name), self.engine)
        await self.bench.keeper.__aenter__()

    async def _stop(self) -> None:
        await self.bench.keeper.__aexit__()

    def teardown(self) -> None:
        """Close everything."""
        self.run(self._stop())
        self.runner.close()
        self.directory.cleanup()

    @rule()
    def restart(self) -> None:
        """The service ends and starts again on the same data."""
        self.run(self._stop())
        self.run(self._start())

    @rule(verb=VERBS)
    def break_down(self, verb: str) -> None:
        """From now on this verb fails."""
        self.engine.failures[verb] = unreachable()

    @rule(verb=VERBS)
    def mend(self, verb: str) -> None:
        """It works again."""
        self.engine.failures.pop(verb, None)

    @rule(workload_id=IDS, text=TEXTS, replace=st.booleans())
    def deploy(self, workload_id: str, text: str, *, replace: bool) -> None:
        """A deploy does what it says, or what it says is told by the error."""
        before = self.must.get(workload_id)
        order = DeployOrder(workload_id=workload_id, manifest_id="web", text=text, allow_replace=replace)
        try:
            done = self.run(self.patiently(lambda: self.bench.keeper.deploy(order)))
        except AlreadyExists:
            assert workload_id in self.unsure or (before not in (None, text) and not replace)
        except Unavailable as error:
            self._failed(workload_id, text, touched="leftovers" in error.metadata)
        else:
            if workload_id not in self.unsure and workload_id in self.engine.objects:
                assert (done.action is ChangeAction.NONE) == (before == text)
            self.must[workload_id] = text
            self.unsure.discard(workload_id)
            if done.action is not ChangeAction.NONE:
                self.stopped[workload_id] = False

    @rule(in_place=st.booleans())
    def change_in_place(self, *, in_place: bool) -> None:
        """From now on the engine can, or cannot, make changes in place."""
        self.engine.in_place = in_place

    @rule(workload_id=IDS, verb=st.sampled_from([Verb.STOP, Verb.START, Verb.RESTART]))
    def power(self, workload_id: str, verb: Verb) -> None:
        """Stopped is stopped and started is started; a call that failed without an answer may go on by itself."""
        power = self.bench.keeper.power
        calls = {
            Verb.STOP: lambda: power.stop(workload_id, Halt()),
            Verb.START: lambda: power.start(workload_id),
            Verb.RESTART: lambda: power.restart(workload_id, grace_seconds=None),
        }
        try:
            workload = self.run(self.patiently(calls[verb]))
        except NotFound:
            assert workload_id not in self.engine.objects or workload_id not in self.must
        except (FailedPrecondition, Aborted):
            assert workload_id in self.unsure
        except Unavailable as error:
            if "accepted" in error.metadata.values():
                self.stopped.pop(workload_id, None)
        else:
            self.stopped[workload_id] = verb is Verb.STOP
            wanted = WorkloadState.STOPPED if verb is Verb.STOP else WorkloadState.RUNNING
            assert workload.state in (wanted, WorkloadState.UNKNOWN)

    def _failed(self, workload_id: str, text: str, *, touched: bool) -> None:
        recorded = self.bench.records.peek(workload_id)
        if touched or recorded is None or recorded.manifest != self.must.get(workload_id):
            self.must.pop(workload_id, None)
            self.unsure.add(workload_id)

    @rule(workload_id=IDS)
    def remove(self, workload_id: str) -> None:
        """Removed is removed; an accepted removal is no promise any more."""
        try:
            self.run(self.bench.keeper.remove(RemoveOrder(workload_id=workload_id)))
        except NotFound:
            assert workload_id not in self.engine.objects
        except Unavailable as error:
            if error.metadata.get("removal") != "accepted":
                return
            self.unsure.add(workload_id)
        else:
            assert workload_id not in self.engine.objects
            self.unsure.discard(workload_id)
        self.must.pop(workload_id, None)

    @rule(workload_id=IDS)
    def vanish(self, workload_id: str) -> None:
        """Someone removes its objects behind the engine's back."""
        self.engine.objects.pop(workload_id, None)
        if self.must.pop(workload_id, None) is not None:
            self.unsure.add(workload_id)

    @rule()
    def settle(self) -> None:
        """When nothing fails any more, records, backend and list agree, and promises are kept."""
        self.engine.failures.clear()
        self.run(self._until_settled())
        recorded = self._recorded()
        assert recorded.keys() <= self.engine.objects.keys()
        assert {i: text for i, text in recorded.items() if i not in self.unsure} == {
            i: text for i, text in self.must.items() if i not in self.unsure
        }
        for workload_id in self.must.keys() & self.stopped.keys() - self.unsure:
            record = self.bench.records.peek(workload_id)
            assert record is not None
            assert (record.phase is Phase.STOPPED) == self.stopped[workload_id]

    def _recorded(self) -> dict[str, str | None]:
        return {r.workload_id: r.manifest for r in self.bench.records.all() if r.phase.is_settled}

    async def _until_settled(self) -> None:
        """The keeper's own operations end soon; then what is recorded is what runs, and no removal is left."""
        async with asyncio.timeout(5):
            while not await self._is_settled():
                self.bench.keeper.backend_changed()
                await asyncio.sleep(0.001)

    async def _is_settled(self) -> bool:
        await self.bench.keeper.refresh()
        listed = (await self.bench.keeper.list(Listing())).workloads
        told = {w.workload_id: w.state for w in listed if w.state in (WorkloadState.RUNNING, WorkloadState.STOPPED)}
        records = self.bench.records.all()
        going_on = any(r.phase in (Phase.REMOVING, Phase.STOPPING, Phase.STARTING) for r in records)
        return not going_on and told == {
            r.workload_id: WorkloadState.STOPPED if r.phase is Phase.STOPPED else WorkloadState.RUNNING
            for r in records
            if r.phase.is_settled
        }

    @invariant()
    def promises_are_kept(self) -> None:
        """What a caller was promised is in the backend, with its manifest on record."""
        for workload_id, text in self.must.items():
            record = self.bench.records.peek(workload_id)
            assert workload_id in self.engine.objects
            assert record is not None
            assert record.manifest == text


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
