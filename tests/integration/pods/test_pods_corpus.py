"""The corpus on every backend of Pods: what should run runs as it says, what should fail fails, nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import pytest

from services.engines.engine import Config, Engine, Issue, LogQuery, Observation, Role, Severity, Spec, WorkloadState
from services.engines.pods.fields import NodePolicy, check
from services.engines.pods.policy import Honours
from services.errors import BeemeshError, Unavailable
from services.identity import Ownership, workload_id
from services.manifests import parse
from tests import corpus
from tests.corpus import Case, Finding, Outcome, Verdict
from tests.integration.pods.machine import DockerPodMachine, PodMachine, PodmanPodMachine

pytestmark = pytest.mark.timeout(90)

_SECONDS = 20.0
HONOURS = (DockerPodMachine.honours, PodmanPodMachine.honours)


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
@pytest.mark.parametrize("honours", HONOURS, ids=lambda honours: honours.engine)
def test_the_check_says_what_the_corpus_says(honours: Honours, case: Case) -> None:
    """The check finds exactly the refusals and warnings that the case expects, with path and line."""
    verdict = case.verdict_of(honours.engine)
    issues = check(parse(case.text), Config(), honours)
    assert _told(issues, Severity.ERROR) == _of(verdict.refusals, verdict)
    assert _told(issues, Severity.WARNING) == list(verdict.warnings)


@pytest.mark.parametrize("case", WITH_ACCESS, ids=names(WITH_ACCESS))
async def test_a_node_may_grant_host_access(machine: PodMachine, node_id: str, case: Case) -> None:
    """What reaches for the machine passes the check of a node that grants it, and runs."""
    policy = NodePolicy(host_access=True)
    assert check(parse(case.text), Config(), machine.honours, policy) == []
    if "privileged: true" in case.text and not machine.has_privileged:
        pytest.skip("docker gives a privileged container every capability, and root lacks some on this machine")
    await _run(machine, node_id, case)


@pytest.mark.parametrize("case", STARTED, ids=names(STARTED))
async def test_the_corpus_runs_as_it_says(machine: PodMachine, node_id: str, case: Case) -> None:
    """What should run shows, logs and ends as the case says; what should fail fails so; and nothing is left."""
    await _run(machine, node_id, case)


async def _run(machine: PodMachine, node_id: str, case: Case) -> None:
    before = machine.objects()
    spec = _spec(node_id, case)
    async with machine.engine(node_id) as engine:
        await _answering(engine)
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


async def _shows(machine: PodMachine, engine: Engine, workload: str, case: Case) -> None:
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
        ends = {WorkloadState.SUCCEEDED, WorkloadState.STARTING}  # over, or between two runs
        wanted = {WorkloadState.RUNNING, *(ends if case.logs else ())}
        assert {part.state for part in found.components if part.role is Role.MAIN} <= wanted


async def _printed(machine: PodMachine, container: str, command: str, expected: str) -> None:
    """A container may take a moment to be as it says."""
    deadline = time.monotonic() + _SECONDS / 2
    while True:
        said = await asyncio.to_thread(machine.inside, container, f"{command}\ntrue")
        if said.rstrip() == expected.rstrip():
            return
        assert time.monotonic() < deadline, f"{command}: {said!r}, expected {expected!r}"
        await asyncio.sleep(0.2)


async def _answering(engine: Engine) -> None:
    """Wait until the backend can be asked."""
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            await engine.observe()
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            return


async def _logged(engine: Engine, workload: str, component: str, lines: Iterable[str]) -> bool:
    query = LogQuery(component_id=component)
    said = [line.text async for batch in engine.logs(workload, query) for line in batch]
    return all(line in said for line in lines)


async def _exited(engine: Engine, workload: str, component: str, code: int) -> bool:
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
