"""A workload that has lost some of its components: it is told, and the next deploy makes it anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from services.engines.admission import DeployOrder
from services.engines.conditions import COMPONENT_MISSING, CONFIG_MATCHES
from services.engines.engine import (
    Capability,
    Change,
    ChangeAction,
    Component,
    Config,
    Observation,
    Role,
    Spec,
    Status,
    WorkloadState,
)
from services.engines.view import Workload
from services.manifests import Manifest
from tests.unit.engines.fakes import POD, WORKLOAD, Bench, FakeEngine, bench

ORDER = DeployOrder(workload_id=WORKLOAD, manifest_id="web", text=POD)
S = WorkloadState


class TellingEngine(FakeEngine):
    """Makes two mains and an init, and can tell so before."""

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """Both."""
        return ["0/main", "0/side"]

    async def create(self, spec: Spec) -> None:
        """All three."""
        await super().create(spec)
        found = self.objects[spec.workload_id]
        (main,) = found.components
        init = Component(component_id="i", display_name="init", state=S.SUCCEEDED, role=Role.INIT)
        side = Component(component_id="s", display_name="side", state=S.RUNNING)
        self.objects[spec.workload_id] = replace(found, components=(main, side, init))

    async def update(self, old: Spec, new: Spec, changes: Sequence[Change]) -> None:
        """What is there stays, what is missing is added."""
        self.asked.append("update")
        assert (old.manifest.text, changes) == (new.manifest.text, ())
        found = self.objects[new.workload_id]
        there = {item.display_name for item in found.components}
        added = [
            Component(component_id="n", display_name=n, state=S.RUNNING) for n in ("main", "side") if n not in there
        ]
        self.objects[new.workload_id] = replace(found, components=(*found.components, *added))

    def lose(self, *names: str) -> None:
        """These components vanish."""
        found: Observation = self.objects[WORKLOAD]
        left = tuple(item for item in found.components if item.display_name not in names)
        self.objects[WORKLOAD] = replace(found, components=left)


def why_not_as_asked(workload: Workload) -> str:
    """The reason of ConfigMatches where it is false."""
    (matches,) = [item for item in workload.conditions if item.type == CONFIG_MATCHES]
    return matches.reason if matches.status is Status.FALSE else ""


async def lost(b: Bench, engine: TellingEngine, *names: str) -> Workload:
    """The workload after it has lost these."""
    await b.keeper.deploy(ORDER)
    engine.lose(*names)
    return await b.keeper.get(WORKLOAD)


async def test_a_whole_workload_misses_nothing(tmp_path: Path) -> None:
    """All that was asked for is there."""
    async with bench(tmp_path, TellingEngine()) as b:
        assert why_not_as_asked((await b.keeper.deploy(ORDER)).workload) == ""


async def test_what_is_gone_is_named_though_the_rest_runs(tmp_path: Path) -> None:
    """DEGRADED with the name, and ConfigMatches says that a component is missing; over a restart of the engine too."""
    engine = TellingEngine()
    async with bench(tmp_path, engine) as b:
        seen = await lost(b, engine, "side")
        assert (seen.state, seen.state_message) == (S.DEGRADED, "gone: 0/side")
        assert why_not_as_asked(seen) == COMPONENT_MISSING
    async with bench(tmp_path, engine) as b:
        assert why_not_as_asked(await b.keeper.get(WORKLOAD)) == COMPONENT_MISSING


async def test_all_gone_but_the_shell_is_missing_too(tmp_path: Path) -> None:
    """A pod without containers is FAILED, and it is told why."""
    engine = TellingEngine()
    async with bench(tmp_path, engine) as b:
        seen = await lost(b, engine, "main", "side", "init")
        assert (seen.state, why_not_as_asked(seen)) == (S.FAILED, COMPONENT_MISSING)


async def test_an_init_component_that_was_cleaned_away_is_not_missed(tmp_path: Path) -> None:
    """It has done its work."""
    engine = TellingEngine()
    async with bench(tmp_path, engine) as b:
        seen = await lost(b, engine, "init")
        assert (seen.state, why_not_as_asked(seen)) == (S.RUNNING, "")


async def test_the_same_deploy_makes_it_anew(tmp_path: Path) -> None:
    """What is left goes first; the repeat is NONE again."""
    engine = TellingEngine()
    async with bench(tmp_path, engine) as b:
        await lost(b, engine, "side")
        again = await b.keeper.deploy(ORDER)
        assert (again.action, again.workload.state, why_not_as_asked(again.workload)) == (
            ChangeAction.CREATE,
            S.RUNNING,
            "",
        )
        assert engine.asked == ["create", "destroy", "create"]
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE


async def test_an_engine_that_updates_in_place_adds_what_is_gone(tmp_path: Path) -> None:
    """What is whole runs on as it is, and is not made of other content afterwards."""
    engine = TellingEngine()
    engine.capabilities.add(Capability.UPDATE_IN_PLACE)
    async with bench(tmp_path, engine) as b:
        before = (await lost(b, engine, "side")).components
        again = await b.keeper.deploy(ORDER)
        assert (again.action, again.workload.state) == (ChangeAction.UPDATE_IN_PLACE, S.RUNNING)
        assert set(before) < set(again.workload.components)
        assert engine.asked == ["create", "update"]
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.NONE


async def test_where_all_is_gone_there_is_nothing_to_add_to(tmp_path: Path) -> None:
    """A shell without components goes, and all is made anew."""
    engine = TellingEngine()
    engine.capabilities.add(Capability.UPDATE_IN_PLACE)
    async with bench(tmp_path, engine) as b:
        await lost(b, engine, "main", "side", "init")
        assert (await b.keeper.deploy(ORDER)).action is ChangeAction.CREATE
        assert engine.asked == ["create", "destroy", "create"]
