"""Reads the corpus: manifests in the manner of those that others write, each with the verdict that is expected of us.

A case's header, its leading comment, is written in the words that `README.md` of this folder explains. Where a comment
would spoil the case (JSON), the header stands in a file beside it, `<name>.expect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent
HOST_ACCESS: Final = "host-access"
PARSE: Final = "parse"
"""The judge of what no engine needs to see."""

_BOM = "\ufeff"
_SIDECAR = ".expect"
_DIRECTIVE = re.compile(rf"(expect|with {HOST_ACCESS}|shows|logs|exits): +(.+)")
_FINDING = re.compile(r"(?:by ([a-z]+) )?([A-Z_]+) (.+) line ([0-9]+)")
_BY_ANOTHER = re.compile(r"refused by (?!podman\b)([a-z]+) ")
_SHOWS = re.compile(r"(\S+) (.+?) => (.*)")
_PAIR = re.compile(r"(\S+) => (.*)")


class Outcome(Enum):
    """What becomes of a manifest in the end."""

    ACCEPTED = "accepted"
    """It can be read; nothing is said about engines."""
    RUNS = "runs"
    FAILS = "fails"
    """It can be read and the engine's check has nothing against it, but it cannot be started; nothing is left of it."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What is said about one field."""

    line: int
    field_path: str
    """Empty for a fault of the text itself."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a command prints inside a running container of every replica, apart from white space at the end."""

    component: str
    command: str
    """For `sh -c`."""
    expected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the product does with a manifest."""

    outcome: Outcome
    judge: str = ""
    """Who refuses: `parse`, or `podman`, which stands for every engine that runs Pods; empty if nobody does."""
    refusals: tuple[Finding, ...] = ()
    """All of them, by line: of `parse`'s reason and place, or an engine's issues of severity ERROR."""
    warnings: tuple[Finding, ...] = ()
    """An engine's issues of severity WARNING, all of them, by line."""
    failure: str = ""
    """The reason with which the start fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One manifest of the corpus."""

    path: Path
    text: str = field(repr=False)
    """As in the file: line ends and byte order mark untouched, the header included."""
    title: str
    """What it shows, in a sentence or two."""
    verdict: Verdict
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """Of engines that judge otherwise, by their ids."""
    verdict_with_host_access: Verdict | None = None
    """On a node whose policy lets workloads at the machine, where that differs."""
    checks: tuple[Check, ...] = ()
    logs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Lines that a component logs."""
    exits: Mapping[str, int] = field(default_factory=dict)
    """Exit codes of components that end."""

    @property
    def name(self) -> str:
        """Folder and file, for the ids of tests."""
        return self.path.relative_to(ROOT).as_posix()

    def verdict_of(self, engine: str) -> Verdict:
        """What this engine makes of it."""
        return self.verdicts.get(engine, self.verdict)


def load(folder: str, where: Callable[[Case], bool] = lambda case: True) -> list[Case]:
    """The cases of a folder (`kubernetes`, `compose`, `beemesh`) that satisfy `where`, by name.

    Raises ValueError for a file without a verdict or with a header that cannot be read.
    """
    files = (path for path in sorted((ROOT / folder).iterdir()) if path.suffix != _SIDECAR)
    return [case for case in map(read, files) if where(case)]


def read(path: Path) -> Case:
    """One case. Raises ValueError for a header that cannot be read."""
    text = path.read_bytes().decode()
    sidecar = path.with_name(path.name + _SIDECAR)
    source = sidecar.read_text() if sidecar.exists() else text.removeprefix(_BOM)
    try:
        return _case(path, text, _header(source))
    except ValueError as error:
        raise ValueError(f"{path.parent.name}/{path.name}: {error}") from None


def _header(text: str) -> Iterable[str]:
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line.removeprefix("#").strip()


def _case(path: Path, text: str, header: Iterable[str]) -> Case:
    title: list[str] = []
    said: dict[str, list[str]] = {"expect": [], f"with {HOST_ACCESS}": [], "shows": [], "logs": [], "exits": []}
    for line in header:
        directive = _DIRECTIVE.fullmatch(line)
        if directive:
            said[directive[1]].append(directive[2])
        elif any(said.values()):
            break  # a comment of the manifest's own
        else:
            title.append(line)
    with_access = said[f"with {HOST_ACCESS}"]
    others = {match[1] for line in said["expect"] if (match := _BY_ANOTHER.match(line))}
    logs: dict[str, tuple[str, ...]] = {}
    for component, line in (_groups(_PAIR, text) for text in said["logs"]):
        logs[component] = (*logs.get(component, ()), line)
    return Case(
        path=path,
        text=text,
        title=" ".join(title),
        verdict=_verdict(_of_engine(said["expect"], "podman", others)),
        verdicts={engine: _verdict(_of_engine(said["expect"], engine, {*others, "podman"})) for engine in others},
        verdict_with_host_access=_verdict(with_access) if with_access else None,
        checks=tuple(_check(line) for line in said["shows"]),
        logs=logs,
        exits={component: int(code) for component, code in (_groups(_PAIR, text) for text in said["exits"])},
    )


def _of_engine(lines: Iterable[str], engine: str, others: Collection[str]) -> list[str]:
    """The lines that are not another engine's."""
    return [line for line in lines if not any(f" by {other} " in line for other in others if other != engine)]


def _verdict(lines: Sequence[str]) -> Verdict:
    if not lines:
        raise ValueError("has no `# expect:`")
    outcomes, judges = set[Outcome](), set[str]()
    refusals, warnings = list[Finding](), list[Finding]()
    failure = ""
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "warns":
            warnings.append(_finding(rest)[1])
            continue
        outcomes.add(Outcome(word))
        if word == "refused":
            judge, finding = _finding(rest)
            judges.add(judge)
            refusals.append(finding)
        elif word == "fails":
            failure = rest
    if len(outcomes) > 1 or len(judges) > 1:
        raise ValueError("expects things that exclude each other")
    return Verdict(
        outcome=outcomes.pop() if outcomes else Outcome.RUNS,
        judge=judges.pop() if judges else "",
        refusals=tuple(sorted(refusals)),
        warnings=tuple(sorted(warnings)),
        failure=failure,
    )


def _finding(text: str) -> tuple[str, Finding]:
    judge, reason, field_path, line = _groups(_FINDING, text)
    path = "" if field_path == "-" else field_path
    return judge or PARSE, Finding(line=int(line), field_path=path, reason=reason)


def _check(text: str) -> Check:
    component, command, expected = _groups(_SHOWS, text)
    return Check(component=component, command=command, expected=expected)


def _groups(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read {text!r}")
    return match.groups()
