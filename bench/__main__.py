"""`python -m bench [NAME…]`: run benches, print their tables, and with `--docs` write them where they stand."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import chain, choice, docker, idle, machine, podman, pods, records, rounds, wasm
from bench.report import Effort, Report, put

BENCHES: Mapping[str, Callable[[Effort], Report]] = {
    "podman": podman.run,
    "docker": docker.run,
    "pods": pods.run,
    "chain": chain.run,
    "records": records.run,
    "rounds": rounds.run,
    "idle": idle.run,
    "choice": choice.run,
    "wasm": wasm.run,
}


def main() -> None:
    """Exits with 1 when something has failed that must not."""
    parser = argparse.ArgumentParser(description="Measure; the tables are those of docs/performance.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}; none: all")
    parser.add_argument("--docs", type=Path, help="the document whose tables are rewritten")
    parser.add_argument("--tiny", action="store_true", help="only show that it runs")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHES):
        parser.error(f"no bench is named {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    failed = []
    for name in arguments.names or BENCHES:
        report = _measured(name, Effort(tiny=arguments.tiny), arguments.docs)
        failed += [f"{name}: {what}" for what in report.failed]
    if failed:
        sys.exit("\n".join(failed))


def _measured(name: str, effort: Effort, docs: Path | None) -> Report:
    """Run one; its table is out before the next begins, so that a run that is cut short was not in vain."""
    conditions, began = machine.conditions(), time.monotonic()
    report = BENCHES[name](effort)
    body = f"{report.body}\n\nMeasured {conditions}; took {time.monotonic() - began:.0f} s."
    print(f"### {name}\n\n{body}\n", flush=True)
    if docs is not None:
        docs.write_text(put(docs.read_text(), name, body))
    return report


if __name__ == "__main__":
    main()
