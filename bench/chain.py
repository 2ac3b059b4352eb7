"""An apply on mock, to ACTIVE, durable and validated, beside the bare chain of calls that it is made of."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence

import uvloop

from bench import bare, machine, processes
from bench.nodes import Applier, each, node
from bench.report import Effort, Report, spread, table, verdict

GOALS = {1: 0.8, 64: 0.6}
"""Applies a second as a part of what the bare chain does, by how many are in flight."""

_BARE, _OURS = "bare chain", "apply"


def run(effort: Effort) -> Report:
    """Blocks of applies, in turns."""
    rounds, sizes = effort.of(5, 1), {1: effort.of(80, 2), 64: effort.of(512, 8)}
    with machine.apart() as cores, bare.chain(cores=cores) as chain, node("mock", cores=cores) as ours:
        pids = list(ours.services().values())
        rates = uvloop.run(_measure({_BARE: chain, _OURS: ours.socket}, rounds, sizes, pids))
    rows = []
    for in_flight, goal in GOALS.items():
        ratio = [o / b for o, b in zip(rates[_OURS, in_flight], rates[_BARE, in_flight], strict=True)]
        rows.append(
            [
                str(in_flight),
                spread(rates[_BARE, in_flight]),
                spread(rates[_OURS, in_flight]),
                spread(ratio, digits=2),
                f"≥ {goal}",
                verdict(statistics.median(ratio) >= goal),
            ]
        )
    header = ["in flight", "bare chain, a second", "applies to ACTIVE a second", "ratio by round", "goal", "reached"]
    note = f"{rounds} rounds of {sizes[1]} and {sizes[64]} applies, in turns; servers and client on different cores."
    return Report(body=f"{table(header, rows)}\n\n{note}")


async def _measure(
    targets: dict[str, str], rounds: int, sizes: dict[int, int], pids: Sequence[int]
) -> dict[tuple[str, int], list[float]]:
    """Applies a second, by contender and number in flight; the first round is thrown away."""
    rates: dict[tuple[str, int], list[float]] = {(name, count): [] for name in targets for count in sizes}
    names = (f"chain-{number}" for number in itertools.count())
    for number in range(rounds + 1):
        for in_flight, size in sizes.items():
            for contender, target in targets.items():
                rate = await _block(target, names, in_flight, size, delete=contender == _OURS)
                processes.settle(pids)
                if number:
                    rates[contender, in_flight].append(rate)
    return rates


async def _block(target: str, names: Iterator[str], in_flight: int, size: int, *, delete: bool) -> float:
    """One block of applies; what it has made is deleted after the clock has stopped."""
    block = list(itertools.islice(names, size))
    async with Applier(target) as applier:
        await each(applier.apply, block[:1], in_flight=1)  # connected
        began = time.perf_counter()
        await each(applier.apply, block[1:], in_flight=in_flight)
        rate = (size - 1) / (time.perf_counter() - began)
        if delete:
            await each(applier.delete, block, in_flight=32)
    return rate
