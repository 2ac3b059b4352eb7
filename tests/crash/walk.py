"""Walking a scene to a point, killing a service there by -9, and asking again: the story must have a good end."""

from __future__ import annotations

import grpc

from tests.crash.life import Life
from tests.crash.node import CrashNode
from tests.crash.rows import CONTROLS, Scene, delete
from tests.crash.story import check

MOMENTS = ("before", "after")
_NAME = str.maketrans({":": "-", "_": "-", " ": "-"})


def walk(node: CrashNode, scene: Scene, *, service: str, point: str, name: str = "") -> None:
    """Kill the service where it stands at the point, start it again, ask again, and check. `name`: of the deployment.

    What leads there is asked on the side; a point that is not reached fails.
    """
    life = Life(node, (name or point).translate(_NAME).lower())
    for act in scene.given:
        act(life)
    changes = life.generation
    stops = [*(("orchestrator", stop, act) for stop, act in scene.via), (service, point, lambda _: node.kill(service))]
    node.arm(*stops[0][:2])
    with life.meanwhile(scene.when):
        for place, (stopped, stop, act) in enumerate(stops):
            node.await_stop(stopped, stop)
            act(life)
            if place + 1 < len(stops):
                node.arm(*stops[place + 1][:2])
            node.release(stopped, stop)
        if not scene.lasting:
            life.lift()
        node.start(service)
    _ask_again(life, scene, changes)
    if scene.ends:
        life.await_state(*scene.ends)
    check(node)
    life.lift()
    _assert_ends(life, scene, changes)


def _ask_again(life: Life, scene: Scene, changes: int) -> None:
    """What a client does that was given no answer; a control that was accepted is not asked for twice."""
    if not scene.asked or (scene.when in CONTROLS and life.generation > changes):
        return
    try:
        scene.when(life)
    except grpc.RpcError:
        return


def _assert_ends(life: Life, scene: Scene, changes: int) -> None:
    """It ended as it may, one change was accepted and not two, and it can be deleted."""
    found = life.find()
    if not scene.ends:
        assert found is None
        return
    assert found is not None
    assert life.image() == scene.ends[found.state]
    assert found.generation == changes + scene.changes
    delete(life)
    assert life.find() is None
    check(life.node)
