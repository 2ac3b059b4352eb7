"""The corpus on a real podman: what should run runs and shows what it says, what should fail fails, nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import pytest

from services.engines.engine import Config, Issue, LogQuery, Observation, Role, Severity, Spec, WorkloadState
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.honours import HONOURS
from services.engines.pods.fields import NodePolicy, check
from services.errors import BeemeshError
from services.identity import Ownership, workload_id
from services.manifests import parse
from tests import corpus
from tests.corpus import Case, Finding, Outcome, Verdict
from tests.harness.podman import PodmanMachine
from tests.integration.podman.workloads import answering, read, texts

pytestmark = [pytest.mark.podman, pytest.mark.timeout(90)]

_SECONDS = 20.0


def _read(case: Case) -> bool:
    """Whether reading alone does not settle it."""
    return case.verdict.judge != corpus.PARSE and case.verdict.outcome is not Outcome.ACCEPTED


def _starts(case: Case) -> bool:
    return _read(case) and case.verdict.outcome in (Outcome.RUNS, Outcome.FAILS)


READ = corpus.load("kubernetes", _read)
STARTED = corpus.load("kubernetes", _starts)
WITH_ACCESS = corpus.load("kubernetes", lambda case: case.verdict_with_host_access is not None)


def names(cases: Sequence[Case]) -> list[str]:
    """The ids of the tests."""
    return [case.path.stem for case in cases]


@pytest.mark.parametrize("case", READ, ids=names(READ))
def test_the_check_says_what_the_corpus_says(case: Case) -> None:
    """The check finds exactly the refusals and warnings that the case expects, with path and line."""
    issues = check(parse(case.text), Config(), HONOURS)
    assert _told(issues, Severity.ERROR) == _of(case.verdict.refusals, case.verdict)
    assert _told(issues, Severity.WARNING) == list(case.verdict.warnings)


@pytest.mark.parametrize("case", WITH_ACCESS, ids=names(WITH_ACCESS))
async def test_a_node_may_grant_host_access(machine: PodmanMachine, node_id: str, case: Case) -> None:
    """What reaches for the machine passes the check of a node that grants it, and runs."""
    policy = NodePolicy(host_access=True)
    assert check(parse(case.text), Config(), HONOURS, policy) == []
    await _run(machine, node_id, case)


@pytest.mark.parametrize("case", STARTED, ids=names(STARTED))
async def test_the_corpus_runs_as_it_says(machine: PodmanMachine, node_id: str, case: Case) -> None:
    """What should run shows, logs and ends as the case says; what should fail fails so; and nothing is left."""
    await _run(machine, node_id, case)


async def _run(machine: PodmanMachine, node_id: str, case: Case) -> None:
    before = machine.objects()
    spec = _spec(node_id, case)
    async with machine.engine(node_id) as engine:
        await answering(engine)
        try:
            if case.verdict.outcome is Outcome.FAILS:
                with pytest.raises(BeemeshError) as caught:
                    await engine.create(spec)
                assert caught.value.reason == case.verdict.failure
                assert "leftovers" not in caught.value.metadata
            else:
                await engine.create(spec)
                await _shows(machine, engine, spec.workload_id, case)
        finally:
            await engine.destroy(spec.workload_id, grace_seconds=1, force=False, remove_volumes=True)
    assert machine.objects() == before


async def _shows(machine: PodmanMachine, engine: PodmanEngine, workload: str, case: Case) -> None:
    found = await engine.observe_one(workload)
    for expected in case.checks:
        assert found is not None
        components = [part for part in found.components if part.display_name == expected.component]
        assert components
        for part in components:
            await _printed(machine, part.component_id, expected.command, expected.expected)
    for component, lines in case.logs.items():
        await _until(partial(_logged, engine, workload, component, lines), f"{component} logs {lines}")
    for component, code in case.exits.items():
        await _until(partial(_exited, engine, workload, component, code), f"{component} exits with {code}")
    if found is not None and not case.exits:
        found = await engine.observe_one(workload)
        assert found is not None
        wanted = {WorkloadState.RUNNING} if not case.logs else {WorkloadState.RUNNING, WorkloadState.SUCCEEDED}
        assert {part.state for part in found.components if part.role is Role.MAIN} <= wanted


async def _printed(machine: PodmanMachine, container: str, command: str, expected: str) -> None:
    """A container may take a moment to be as it says."""
    deadline = time.monotonic() + _SECONDS / 2
    while True:
        said = await asyncio.to_thread(_exec, machine, container, command)
        if said.rstrip() == expected.rstrip():
            return
        assert time.monotonic() < deadline, f"{command}: {said!r}, expected {expected!r}"
        await asyncio.sleep(0.2)


def _exec(machine: PodmanMachine, container: str, command: str) -> str:
    try:
        return machine.podman("exec", container, "sh", "-c", f"{command}\ntrue")
    except RuntimeError as error:
        return str(error)


async def _logged(engine: PodmanEngine, workload: str, component: str, lines: Iterable[str]) -> bool:
    said = texts(await read(engine, workload, LogQuery(component_id=component)))
    return all(line in said for line in lines)


async def _exited(engine: PodmanEngine, workload: str, component: str, code: int) -> bool:
    found: Observation | None = await engine.observe_one(workload)
    assert found is not None
    ends = [part.exit_status for part in found.components if part.display_name == component]
    return bool(ends) and all(end is not None and end.exit_code == code for end in ends)


async def _until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not await holds():
        assert time.monotonic() < deadline, f"{what}: not within {_SECONDS} s"
        await asyncio.sleep(0.1)


def _spec(node_id: str, case: Case) -> Spec:
    deployment = f"corpus-{case.path.stem}"[:40].rstrip("-")
    ownership = Ownership(
        node_id=node_id,
        deployment_id=deployment,
        workload_id=workload_id(node=node_id, deployment=deployment),
        manifest_hash="sha256:" + "c" * 64,
    )
    return Spec(ownership=ownership, manifest=parse(case.text), config=Config())


def _told(issues: Iterable[Issue], severity: Severity) -> list[Finding]:
    return sorted(
        Finding(line=issue.line, field_path=issue.field_path, reason=issue.reason)
        for issue in issues
        if issue.severity is severity
    )


def _of(findings: Sequence[Finding], verdict: Verdict) -> list[Finding]:
    return list(findings) if verdict.outcome is Outcome.REFUSED else []
