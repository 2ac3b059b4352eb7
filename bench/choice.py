"""What choosing one of five engines costs, without the calls to them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from bench.nodes import DEPLOYMENT
from bench.report import Effort, Report, spread, table, verdict
from services.orchestrator import selection
from services.orchestrator.model import EngineView, Verdict
from services.orchestrator.requests import ApplyRequest, read

GOAL_MS = 0.1
_ENGINES = ("podman", "docker", "libvirt", "wasm", "mock")


def run(effort: Effort) -> Report:
    """Candidates in order, then the decision; besides, what reading the manifest costs."""
    views = {
        engine: EngineView(
            engine_id=engine, endpoint="unix:/nowhere", formats=frozenset({1, 2, 3, 4}), kinds=frozenset({"Deployment"})
        )
        for engine in _ENGINES
    }
    request = ApplyRequest(manifest=DEPLOYMENT.replace("{name}", "web"))
    _, wish = read(request)

    def choose() -> None:
        found = selection.candidates(wish, views, default="podman")
        chosen = selection.decide(found).selected
        if chosen is None or chosen.verdict is not Verdict.SELECTED:
            raise RuntimeError("nothing was chosen")

    count = effort.of(2000, 10)
    choosing = [_each(choose, count) for _ in range(effort.of(9, 1))]
    reading = [_each(lambda: read(request), count // 10) for _ in range(effort.of(9, 1))]
    rows = [
        [
            "choosing",
            spread(choosing, digits=3, scale=1000),
            f"≤ {GOAL_MS}",
            verdict(statistics.median(choosing) * 1000 <= GOAL_MS),
        ],
        ["reading and checking the manifest", spread(reading, digits=3, scale=1000), "", ""],
    ]
    header = ["what, of a Deployment and five engines", "median ms (min–max)", "goal", "reached"]
    return Report(body=table(header, rows))


def _each(work: Callable[[], object], count: int) -> float:
    """Seconds of CPU that one takes."""
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count
