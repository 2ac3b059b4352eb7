"""One round of a soak after the other: ask, kill, start again, ask again until it is answered, compare."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import grpc
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from tests.crash.life import Life
from tests.crash.node import SERVICES, CrashNode
from tests.crash.story import check, copies, image_of, records, replicas_of
from tests.soak.plan import Request, Round, Wanted, draw

_POINT_SECONDS = 0.3
_LOOK_SECONDS = 0.002
_WELL = (pb.DEPLOYMENT_STATE_ACTIVE, pb.DEPLOYMENT_STATE_SUCCEEDED, pb.DEPLOYMENT_STATE_ROLLED_BACK)


class Soak:
    """One node, and what its clients were promised."""

    def __init__(self, node: CrashNode, rng: random.Random) -> None:
        self._node = node
        self._rng = rng
        self._wanted: dict[str, Wanted | None] = {}
        self.kills: Counter[str] = Counter()
        self.verbs: Counter[str] = Counter()
        self.reached = 0
        """How often services were killed at the point that was drawn, and not when it had not come in time."""

    def draw(self) -> Round:
        """The next round; all that is drawn is drawn here."""
        return draw(self._rng, self._wanted)

    def log_tail(self) -> str:
        """What the services wrote last."""
        return self._node.log_tail()

    def play(self, drawn: Round) -> None:
        """Raises AssertionError when not all tell the same story afterwards, or a promise was broken."""
        asked = [_Asked(Life(self._node, request.name), request) for request in drawn.requests]
        if drawn.at is not None:
            self._node.arm(*drawn.at)
        with ExitStack() as clients:
            for each in asked:
                clients.enter_context(each.life.meanwhile(lambda _, each=each: each.ask()))  # type: ignore[misc]  # mypy cannot infer a lambda's default
            self._await_moment(drawn)
            self._node.kill(*drawn.victims)
            for service in SERVICES:
                self._node.arm(service, "")
            self._node.start(*drawn.victims)
        self.kills.update(drawn.victims)
        self._node.await_ready()
        for each in asked:
            self.verbs[each.request.verb] += 1
            self._wanted[each.request.name] = each.settle()
        check(self._node)
        self._compare()

    def _await_moment(self, drawn: Round) -> None:
        if drawn.at is None:
            time.sleep(drawn.delay)
            return
        end = time.monotonic() + _POINT_SECONDS
        while time.monotonic() < end:
            if self._node.stands_at(*drawn.at):
                self.reached += 1
                return
            time.sleep(_LOOK_SECONDS)

    def _compare(self) -> None:
        """What was promised is what is."""
        found = records(self._node)
        held = {copy.observation.ownership.deployment_id: copy for copy in copies(self._node)}
        for name, wanted in self._wanted.items():
            assert (name in found) == (wanted is not None), f"{name} is {'there' if name in found else 'gone'}"
            if wanted is None:
                continue
            state = pb.DEPLOYMENT_STATE_STOPPED if wanted.stopped else pb.DEPLOYMENT_STATE_ACTIVE
            assert found[name].state == state, f"{name} is {pb.DeploymentState.Name(found[name].state)}"
            runs = held[name].observation.components
            assert [part.image for part in runs] == [wanted.image] * wanted.replicas, name
            assert held[name].engine == wanted.engine, name


class _Asked:
    """A request on its way to being answered."""

    def __init__(self, life: Life, request: Request) -> None:
        self.life = life
        self.request = request
        self._target = self._earlier() if request.verb == "roll_back" else None
        if request.verb == "roll_back" and self._target is None:
            self.request = replace(request, verb="restart")

    def ask(self) -> object:
        """Once. Raises grpc.RpcError."""
        wanted = self.request.wanted
        if self.request.verb == "apply":
            assert wanted is not None
            return self.life.apply(wanted.image, replicas=wanted.replicas, engine=wanted.engine)
        if self.request.verb == "vanish":
            self.life.script(workload_pb2.WORKLOAD_STATE_REMOVED)
            return None
        verbs: dict[str, Callable[[], object]] = {
            "delete": self.life.delete,
            "stop": self.life.stop,
            "start": self.life.start,
            "restart": self.life.restart,
            "roll_back": self.life.roll_back,
        }
        return verbs[self.request.verb]()

    def settle(self) -> Wanted | None:
        """Ask until it is answered; how the deployment must be from then on."""
        if self.request.verb == "vanish":
            self._make_whole()
            return self.request.wanted
        self.life.node.until(self._is_answered, lambda: f"{self.request.verb} {self.request.name} is not done")
        return self._rolled_back() if self.request.verb == "roll_back" else self.request.wanted

    def _is_answered(self) -> bool:
        try:
            self.ask()
        except grpc.RpcError:
            return False
        return True

    def _make_whole(self) -> None:
        """It is repaired by itself, but for what has vanished too often of late: that is for its client to say."""
        check(self.life.node)
        found = self.life.find()
        if found is not None and found.state == pb.DEPLOYMENT_STATE_FAILED:
            assert found.error.reason == "WORKLOAD_GONE"
            self.request = replace(self.request, verb="apply")
            self.settle()

    def _earlier(self) -> pb.DeploymentRevision | None:
        """What a rollback goes back to."""
        found = self.life.find()
        assert found is not None
        kept = self.life.revisions()
        return next((item for item in kept if item.revision < found.revision and item.outcome in _WELL), None)

    def _rolled_back(self) -> Wanted:
        assert self._target is not None
        content = self._target.manifest.content
        assert self.life.manifest() == content, "it went back to something else"
        return Wanted(image=image_of(content), replicas=replicas_of(content), engine=self._target.engine)
