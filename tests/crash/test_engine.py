"""An engine, killed by -9 before and after each thing that it does to its backend and each record that it writes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from services.engines.records import Phase
from tests.crash import rows
from tests.crash.breakpoints import VERBS
from tests.crash.life import NEW, OLD
from tests.crash.node import CrashNode
from tests.crash.rows import ACTIVE, STOPPED, VANISHED, Scene, new, old
from tests.crash.walk import MOMENTS, walk

REPLACED = ("record DEPLOYING", "destroy", "create", "record DEPLOYED")

LIVES: Mapping[str, tuple[Scene, tuple[str, ...]]] = {
    "create": (Scene(when=old, ends={ACTIVE: OLD}), ("record DEPLOYING", "create", "record DEPLOYED")),
    "scale": (
        Scene(given=(old,), when=rows.scaled, ends={ACTIVE: OLD}),
        ("record UPDATING", "update", "record DEPLOYED"),
    ),
    "replace": (Scene(given=(old,), when=new, ends={ACTIVE: NEW}), REPLACED),
    "rollback": (Scene(given=(old, new), when=rows.back, ends={ACTIVE: OLD}), REPLACED),
    "delete": (Scene(given=(old,), when=rows.delete, ends={}), ("record REMOVING", "destroy", "drop")),
    "stop": (
        Scene(given=(old,), when=rows.stop, ends={STOPPED: OLD}),
        ("record STOPPING", "stop", "record STOPPED"),
    ),
    "start": (
        Scene(given=(old, rows.stop), when=rows.start, ends={ACTIVE: OLD}),
        ("record STARTING", "start", "record DEPLOYED"),
    ),
    "restart": (
        Scene(given=(old,), when=rows.restart, ends={ACTIVE: OLD}),
        ("record STARTING", "stop", "start", "record DEPLOYED"),
    ),
    "drift": (Scene(given=(old,), when=rows.turns(VANISHED), asked=False, ends={ACTIVE: OLD}), ("drop",)),
}
"""What an engine does, in order, for each thing that it may be asked."""

POINTS = [
    pytest.param(life, f"{point} {moment}", id=f"{life}-{point.replace(' ', '-')}-{moment}")
    for life, (_, points) in LIVES.items()
    for point in points
    for moment in MOMENTS
]


def test_each_verb_and_each_phase_is_in_a_life() -> None:
    """A new durable phase or verb without a life to crash in fails here."""
    walked = {point for _, points in LIVES.values() for point in points}
    assert walked == {*VERBS, "drop", *(f"record {phase}" for phase in Phase)}


@pytest.mark.parametrize(("life", "point"), POINTS)
def test_killed_at_a_point(node: CrashNode, life: str, point: str) -> None:
    """One copy or none as the record says, no orphan, the announcement as it should be, and a retry finds it."""
    walk(node, LIVES[life][0], service="left", point=point, name=f"{life} {point}")
