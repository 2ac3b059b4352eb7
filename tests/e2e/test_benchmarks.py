"""The benches run, and their tables find their places in the document; what they measure is nobody's business here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.local_node import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "performance.md"
ON_MOCK = ("choice", "chain", "records", "rounds", "idle")


@pytest.mark.timeout(180)
def test_each_bench_that_needs_no_podman_runs(tmp_path: Path) -> None:
    """With the least effort each prints its table, writes it where it belongs, and touches no other."""
    copy = tmp_path / "performance.md"
    copy.write_text(DOCUMENT.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny", "--docs", str(copy), *ON_MOCK],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = copy.read_text()
    for name in ON_MOCK:
        table = done.stdout.partition(f"### {name}\n")[2].partition("\n###")[0].strip()
        assert table.startswith("| ")
        assert f"<!-- bench:{name} -->\n\n{table}\n\n<!-- /bench:{name} -->" in written


def test_an_unknown_bench_is_refused_by_name() -> None:
    """A misspelt name is told, with the names that there are, before anything is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "chian"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "chian" in done.stderr
    assert "records" in done.stderr
