"""Ten requests at once over docker and podman, round after round, with removals between; in the end nothing is left."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.processes import descriptors
from services.identity import workload_id
from tests.harness.mixed import IMAGE, WAITS, MixedNode

AT_ONCE = 10
_REMOVED = 0.4
"""How often what is there is removed, and not changed."""
_WAIT_SECONDS = 300.0
_SETTLE_SECONDS = 30.0
_BUSY_SECONDS = 0.5
_DESCRIPTOR_SLACK = 16
"""Of one service: a connection of each of its threads, which come into being when there is more to do than before."""

_SIDE_BY_SIDE = f'image: {IMAGE}, command: [sh, -c, "echo CONTENT; {WAITS}"]'
MANIFESTS: Mapping[str, str] = {
    "Compose": f"""\
name: NAME
x-beemesh: {{annotations: {{beemesh.io/runtime-engine: ENGINE, beemesh.io/fallback-policy: NONE}}}}
services:
  web: {{{_SIDE_BY_SIDE}, depends_on: [db], deploy: {{replicas: 2}}}}
  db: {{{_SIDE_BY_SIDE}, volumes: ["data:/data"]}}
volumes: {{data: }}
""",
    "Pod": f"""\
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  annotations: {{beemesh.io/runtime-engine: ENGINE, beemesh.io/fallback-policy: NONE}}
spec:
  containers:
  - {{name: web, {_SIDE_BY_SIDE}, imagePullPolicy: Never, volumeMounts: [{{name: d, mountPath: /d}}]}}
  - {{name: side, {_SIDE_BY_SIDE}, imagePullPolicy: Never}}
  volumes:
  - {{name: d, persistentVolumeClaim: {{claimName: data}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Mi}}}}}}
""",
}
CONTAINERS = {"Compose": 3, "Pod": 2}
PLACES = tuple((kind, engine) for kind in MANIFESTS for engine in ("docker", "podman"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a deployment is to be."""

    kind: str
    engine: str
    content: str

    def manifest(self, name: str) -> str:
        """What is applied."""
        text = MANIFESTS[self.kind]
        for word, value in (("NAME", name), ("ENGINE", self.engine), ("CONTENT", self.content)):
            text = text.replace(word, value)
        return text


Round = Mapping[str, Wanted | None]
"""By deployment how it is to be; None: gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What the node's services hold."""

    descriptors: Mapping[str, int]
    files: frozenset[Path]


class MixedSoak:
    """One node on both, and what its client was promised."""

    def __init__(self, mixed: MixedNode, rng: random.Random) -> None:
        self._mixed = mixed
        self._rng = rng
        self._wanted: dict[str, Wanted | None] = {f"soak-{number}": None for number in range(AT_ONCE)}
        self._warm: Holdings | None = None
        self.asked: Counter[str] = Counter()
        self.busy = 0
        """How often a request was made again because its backend could not be asked."""

    def draw(self) -> Round:
        """The next round; all that is drawn is drawn here."""
        return {name: self._next(now) for name, now in self._wanted.items()}

    def _next(self, now: Wanted | None) -> Wanted | None:
        kind, engine = self._rng.choice(PLACES)
        content = self._rng.choice(("one", "two"))
        remove = self._rng.random() < _REMOVED
        return None if now is not None and remove else Wanted(kind=kind, engine=engine, content=content)

    def play(self, drawn: Round) -> None:
        """All at once, each until it is done. Raises AssertionError when not all is as it was promised afterwards."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for asked in [pool.submit(self._ask, name, wanted) for name, wanted in drawn.items()]:
                asked.result()
        self._wanted.update(drawn)
        for name, wanted in drawn.items():
            self._compare(name, wanted)

    def _ask(self, name: str, wanted: Wanted | None) -> None:
        """Once, and again while a backend is too busy to be asked: nothing may go elsewhere meanwhile."""
        self.asked["removal" if wanted is None else f"{wanted.kind} on {wanted.engine}"] += 1
        end = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                if wanted is None:
                    self._mixed.delete(name, wait=_WAIT_SECONDS)
                else:
                    self._mixed.apply(wanted.manifest(name), wait=_WAIT_SECONDS, deployment_id=name)
            except grpc.RpcError as error:
                refusal: Any = error  # the error of a synchronous call is the call, too
                if refusal.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
                self.busy += 1
                time.sleep(_BUSY_SECONDS)
            else:
                return

    def _compare(self, name: str, wanted: Wanted | None) -> None:
        """What was promised is what is, once a backend that was too busy has been heard again."""
        own = workload_id(node=self._mixed.node.node_id(), deployment=name)
        if wanted is None:
            assert self._mixed.find(name) is None, name
            assert self._mixed.backends.running(own) == {}, name
            return
        self._mixed.until_active(name, wanted.engine)
        running = {engine: len(names) for engine, names in self._mixed.backends.running(own).items()}
        assert running == {wanted.engine: CONTAINERS[wanted.kind]}, f"{name}: {running}"

    def rest(self) -> None:
        """Remove all of it; nothing may be left, and no service may hold more than after the first time."""
        self.play(dict.fromkeys(self._wanted))
        mixed = self._mixed
        end = time.monotonic() + _SETTLE_SECONDS
        while (left := mixed.backends.left(mixed.node.node_id())) and time.monotonic() < end:
            time.sleep(0.5)
        assert left == set(), f"left behind: {sorted(left)}"
        if self._warm is None:
            self._warm = self._holdings()
            return
        end = time.monotonic() + _SETTLE_SECONDS
        while (more := self._grown(self._warm)) and time.monotonic() < end:
            time.sleep(0.5)
        assert more == [], "; ".join(more)

    def _grown(self, warm: Holdings) -> list[str]:
        now = self._holdings()
        return [
            *(
                f"{name}: {count - warm.descriptors[name]} descriptors more"
                for name, count in now.descriptors.items()
                if count > warm.descriptors[name] + _DESCRIPTOR_SLACK
            ),
            *(f"{path} is left" for path in sorted(now.files - warm.files)),
        ]

    def _holdings(self) -> Holdings:
        node = self._mixed.node
        files: set[Path] = set()
        for directory in (node.data_dir, node.run_dir):
            with suppress(FileNotFoundError):  # one that goes just then
                files |= {path for path in directory.rglob("*") if path.is_file()}
        return Holdings(
            descriptors={name: descriptors(pid) for name, pid in node.services().items()}, files=frozenset(files)
        )
