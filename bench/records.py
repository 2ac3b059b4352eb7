"""A node that keeps 10,000 deployments beside an empty one: apply, list, and start."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence

import uvloop
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb

from bench import machine, processes
from bench.measure import ratios
from bench.nodes import CALL_SECONDS, Applier, each, node, start
from bench.report import Effort, Report, percentile, spread, table, verdict
from scripts.local_node import LocalNode

APPLY_GOAL = 1.2
START_GOAL = 5.0
_PAGE = 100
_EMPTY, _FULL = "empty", "full"


def run(effort: Effort) -> Report:
    """Fill one node, then measure both in turns; at last start the full one again."""
    everything = os.sched_getaffinity(0)
    kept, rounds, block = effort.of(10_000, 5), effort.of(9, 1), effort.of(40, 2)
    with machine.apart() as cores, node("mock", cores=cores) as empty, node("mock", cores=cores) as full:
        fill_seconds = uvloop.run(_fill(full, kept))
        nodes = {_EMPTY: empty, _FULL: full}
        took = uvloop.run(_applies(nodes, rounds, block))
        pages = uvloop.run(_pages(full, effort.of(200, 5)))
        starts = [_restarted(full, everything) for _ in range(effort.of(3, 1))]
    ratio = statistics.median(ratios(took, _FULL, against=_EMPTY))
    ready = statistics.median(starts)
    apply_text = f"{spread(took[_FULL], digits=1, scale=1000)} against {spread(took[_EMPTY], digits=1, scale=1000)}"
    rows = [
        ["apply p50, ms", apply_text, "", ""],
        ["the same as a ratio", f"{ratio:.2f}", f"≤ {APPLY_GOAL}", verdict(ratio <= APPLY_GOAL)],
        [f"a page of {_PAGE} of the list, ms", f"{spread(pages, digits=1, scale=1000)}", "", ""],
        ["the same, p99, ms", f"{percentile(pages, 99) * 1000:.1f}", "", ""],
        [
            "start of the node to READY, s",
            spread(starts, digits=2),
            f"≤ {START_GOAL:.0f}",
            verdict(ready <= START_GOAL),
        ],
    ]
    note = (
        f"{kept:,} deployments, applied at {kept / fill_seconds:.0f} a second; {rounds} rounds of {block} applies each."
    )
    return Report(body=f"{table(['what', 'measured', 'goal', 'reached'], rows)}\n\n{note}")


async def _fill(local: LocalNode, kept: int) -> float:
    began = time.perf_counter()
    async with Applier(local.socket) as applier:
        await each(applier.apply, [f"kept-{number}" for number in range(kept)], in_flight=32)
    took = time.perf_counter() - began
    processes.settle(local.services().values(), seconds=120)
    return took


async def _applies(nodes: dict[str, LocalNode], rounds: int, block: int) -> dict[str, list[float]]:
    """The median of each block of applies, one at a time, in seconds."""
    medians: dict[str, list[float]] = {name: [] for name in nodes}
    numbers = itertools.count()
    for number in range(rounds + 1):
        for name, local in nodes.items():
            names = [f"new-{next(numbers)}" for _ in range(block)]
            async with Applier(local.socket) as applier:
                await each(applier.apply, names[:1], in_flight=1)  # connected
                took = await each(applier.apply, names[1:], in_flight=1)
                await each(applier.delete, names, in_flight=16)
            processes.settle(local.services().values())
            if number:
                medians[name].append(statistics.median(took))
    return medians


async def _pages(local: LocalNode, count: int) -> Sequence[float]:
    """The seconds that pages took, one after the other through the whole list."""
    took: list[float] = []
    token = ""
    async with Applier(local.socket) as applier:
        while len(took) < count:
            request = pb.ListDeploymentsRequest(page_size=_PAGE, page_token=token)
            began = time.perf_counter()
            answer = await applier.stub.ListDeployments(request, timeout=CALL_SECONDS)
            took.append(time.perf_counter() - began)
            token = answer.next_page_token
    return took


def _restarted(local: LocalNode, cores: set[int]) -> float:
    """Stopped, and started again with the whole machine for it; what it tells others then is no part of READY."""
    local.stop()
    return start(local, cores=cores)
