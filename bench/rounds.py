"""What 1,000 rounds of apply and delete leave behind: neither memory nor descriptors, rows or files may grow."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import processes
from bench.nodes import Applier, each, node
from bench.report import Effort, Report, table
from scripts.local_node import LocalNode

_NAMES = 5
"""Deployments that come and go; what is kept of each is bounded, and full after the warm-up."""
_RSS_SLACK = 0.03
_RSS_SLACK_BYTES = 1 << 20
_DESCRIPTOR_SLACK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What a node holds at one moment."""

    rss: dict[str, int]
    """Bytes by service."""
    descriptors: dict[str, int]
    """By service."""
    rows: dict[str, int]
    """By table, as `database.table`."""
    files: int
    """In the data directory."""


def run(effort: Effort) -> Report:
    """Rounds to warm up, then those that count."""
    warm, rounds = effort.of(1000, 5), effort.of(1000, 5)
    with node("mock") as local:
        uvloop.run(_rounds(local, warm))
        before = _holdings(local)
        uvloop.run(_rounds(local, rounds))
        after = _holdings(local)
    failed = () if effort.tiny else grown(before, after)
    rows = [
        *(
            [f"{name}: RSS MB", f"{before.rss[name] / 1e6:.1f}", f"{after.rss[name] / 1e6:.1f}"]
            for name in sorted(before.rss)
        ),
        ["descriptors of all services", str(sum(before.descriptors.values())), str(sum(after.descriptors.values()))],
        ["rows in all databases", str(sum(before.rows.values())), str(sum(after.rows.values()))],
        ["files in the data directory", str(before.files), str(after.files)],
    ]
    outcome = "; ".join(failed) or "nothing grew"
    note = f"{rounds:,} rounds of apply and delete after {warm} to warm up, {_NAMES} at a time: {outcome}."
    return Report(body=f"{table(['what', 'before', 'after'], rows)}\n\n{note}", failed=failed)


def grown(before: Holdings, after: Holdings) -> tuple[str, ...]:
    """What has grown by more than an allocator's play."""
    found = []
    for name, rss in before.rss.items():
        if after.rss[name] - rss > max(_RSS_SLACK_BYTES, rss * _RSS_SLACK):
            found.append(f"{name}'s memory grew by {(after.rss[name] - rss) / 1e6:.1f} MB")
        if (more := after.descriptors[name] - before.descriptors[name]) > _DESCRIPTOR_SLACK:
            found.append(f"{name} has {more} descriptors more")
    for name, count in after.rows.items():
        if count > before.rows.get(name, 0):
            found.append(f"{name} has {count - before.rows.get(name, 0)} rows more")
    if after.files > before.files:
        found.append(f"{after.files - before.files} files more")
    return tuple(found)


async def _rounds(local: LocalNode, rounds: int) -> None:
    names = [f"round-{number}" for number in range(_NAMES)]

    async with Applier(local.socket) as applier:

        async def there_and_back(name: str) -> None:
            await applier.apply(name)
            await applier.delete(name)

        for _ in range(max(1, rounds // _NAMES)):
            await each(there_and_back, names, in_flight=_NAMES)
    processes.settle(local.services().values())


def _holdings(local: LocalNode) -> Holdings:
    pids = local.services()
    return Holdings(
        rss={name: processes.memory(pid).rss for name, pid in pids.items()},
        descriptors={name: processes.descriptors(pid) for name, pid in pids.items()},
        rows=_rows(local.data_dir),
        files=sum(1 for path in local.data_dir.rglob("*") if path.is_file()),
    )


def _rows(directory: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in directory.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in tables:
                found[f"{path.stem}.{name}"] = database.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
    return found
