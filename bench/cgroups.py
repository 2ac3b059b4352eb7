"""The CPU of whole control groups: what has ended and was waited for by nobody of ours counts as well."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def account(pid: int) -> Path | None:
    """The file that has the CPU of this process's group, whatever version the machine has; None: it is gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        below = path.lstrip("/")
        if "cpuacct" in controllers.split(","):
            return _ROOT / "cpuacct" / below / "cpuacct.usage"
        if not controllers and (found := _ROOT / below / "cpu.stat").exists():
            return found
    return None


def seconds(file: Path) -> float:
    """What it has used so far; 0: the group is gone."""
    try:
        text = file.read_text()
    except OSError:
        return 0.0
    if file.name == "cpuacct.usage":
        return int(text) / 1e9
    facts = dict(line.split() for line in text.splitlines())
    return int(facts["usage_usec"]) / 1e6
