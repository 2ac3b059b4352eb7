"""What a node costs that has nothing to do, and how long it takes to start."""

from __future__ import annotations

import statistics
import time

from bench import processes
from bench.nodes import node, start
from bench.report import Effort, Report, spread, table, verdict

PSS_GOAL_MB = 40.0
CPU_GOAL_PERCENT = 3.0
START_GOAL = 1.5


def run(effort: Effort, *, engines: str = "mock,podman") -> Report:
    """Start it some times, then leave it alone."""
    engines = "mock" if effort.tiny else engines
    idle_seconds = effort.of(30, 1)
    with node(engines) as local:
        starts = []
        for _ in range(effort.of(5, 1)):
            local.stop()
            starts.append(start(local))
        time.sleep(effort.of(5, 0))
        supervisor = {"node (the supervisor)": local.pid}
        pids = local.services() | supervisor
        before = processes.cpu_by(pids)
        time.sleep(idle_seconds)
        after = processes.cpu_by(pids)
        memory = {name: processes.memory(pid) for name, pid in pids.items()}
    percent = {name: (after[name] - before[name]) / idle_seconds * 100 for name in pids}
    rows = [
        [
            name.removeprefix("services."),
            f"{used.pss / 1e6:.1f}",
            f"{used.rss / 1e6:.1f}",
            f"{percent[name]:.2f}",
            verdict(used.pss / 1e6 <= PSS_GOAL_MB),
        ]
        for name, used in sorted(memory.items())
    ]
    whole = sum(percent.values())
    total = sum(used.pss for used in memory.values())
    rows.append(["all of them", f"{total / 1e6:.1f}", "", f"{whole:.2f}", verdict(whole <= CPU_GOAL_PERCENT)])
    header = ["service", f"PSS MB (goal ≤ {PSS_GOAL_MB:.0f})", "RSS MB", "CPU, % of a core", "reached"]
    ready = statistics.median(starts)
    note = (
        f"Over {idle_seconds} s; the goal for the CPU of a whole node is ≤ {CPU_GOAL_PERCENT:.0f} % of a core. "
        "podman's own service, which the podman engine runs where the system has none, is not among them.\n\n"
        f"Start of a node (engines {engines.replace(',', ' and ')}) to READY, {len(starts)} times, s: "
        f"{spread(starts, digits=2)}; goal ≤ {START_GOAL}: {verdict(ready <= START_GOAL)}."
    )
    return Report(body=f"{table(header, rows)}\n\n{note}")
