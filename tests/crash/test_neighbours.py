"""Registry and provider, killed by -9 at each step of each operation."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.crash.life import NEW, OLD, Life
from tests.crash.node import CrashNode
from tests.crash.rows import ACTIVE, Scene, back, delete, new, old
from tests.crash.story import check

DEPLOYING = ("DEPLOY:INTENT", "DEPLOY:DEPLOYED", "SETTLE:RUNNING")
OPERATIONS: Mapping[str, tuple[Scene, tuple[str, ...]]] = {
    "apply": (Scene(when=old, ends={ACTIVE: OLD}), ("SELECT:CHOSEN", *DEPLOYING, "ANNOUNCE")),
    "update": (Scene(given=(old,), when=new, ends={ACTIVE: NEW}), ("SELECT:CHOSEN", *DEPLOYING)),
    "rollback": (Scene(given=(old, new), when=back, ends={ACTIVE: OLD}), ("SELECT:CHOSEN", *DEPLOYING)),
    "delete": (Scene(given=(old,), when=delete, ends={}), ("REST:DELETE", "REMOVE:REMOVED")),
}
"""The points of the orchestrator that each operation passes, in order."""


@pytest.mark.parametrize("service", ["registry", "provider"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_each_step(node: CrashNode, operation: str, service: str) -> None:
    """The operation goes on, is answered, and is known to all once the service is back."""
    scene, points = OPERATIONS[operation]
    life = Life(node, f"{operation}-{service}")
    for act in scene.given:
        act(life)
    stops = [f"{point} {moment}" for point in points for moment in ("before", "after")]
    node.arm("orchestrator", stops[0])
    with life.meanwhile(scene.when):
        for stop, following in zip(stops, [*stops[1:], ""], strict=True):
            node.await_stop("orchestrator", stop)
            node.kill(service)
            node.start(service)
            node.arm("orchestrator", following)
    check(node)
    found = life.find()
    assert {found.state: life.image()} == scene.ends if found is not None else not scene.ends
    delete(life)
    check(node)
