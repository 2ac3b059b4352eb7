"""The corpus is complete, and what can be said of it without an engine is said: refusals with path and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.errors import InvalidArgument
from services.manifests import parse
from tests.corpus import PARSE, ROOT, Case, Finding, Outcome, load, read

FOLDERS = ("kubernetes", "compose", "beemesh")
CASES = [case for folder in FOLDERS for case in load(folder)]
REFUSED_BY_PARSE = [case for case in CASES if case.verdict.judge == PARSE]
READABLE = [case for case in CASES if case.verdict.judge != PARSE]


def _name(case: Case) -> str:
    return case.name


def test_every_file_of_the_corpus_is_a_case() -> None:
    """Nothing lies in the corpus that no test reads."""
    files = {path for path in ROOT.rglob("*.*") if path.suffix in (".yaml", ".yml", ".json")}
    assert files == {case.path for case in CASES}
    for sidecar in ROOT.rglob("*.expect"):
        assert sidecar.with_name(sidecar.name.removesuffix(".expect")) in files


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_case_says_what_it_shows(case: Case) -> None:
    """Each case has a title, and only what runs is looked into."""
    assert case.title.endswith(".")
    verdict = case.verdict_with_host_access or case.verdict
    if case.checks or case.logs or case.exits:
        assert verdict.outcome is Outcome.RUNS


@pytest.mark.parametrize("case", REFUSED_BY_PARSE, ids=_name)
def test_a_manifest_is_refused_by_path_and_line(case: Case) -> None:
    """All faults are found, each at its path and line, and no other."""
    with pytest.raises(InvalidArgument) as caught:
        parse(case.text)
    found = [
        Finding(line=violation.line, field_path=violation.field_path, reason=violation.reason)
        for violation in caught.value.violations
    ]
    assert sorted(found) == list(case.verdict.refusals)


@pytest.mark.parametrize("case", READABLE, ids=_name)
def test_a_manifest_that_an_engine_may_judge_is_read(case: Case) -> None:
    """Whatever engines make of it, it is a valid manifest, and a finding is about a field that is there."""
    manifest = parse(case.text)
    verdict = case.verdict
    lines = case.text.splitlines()
    for finding in (*verdict.refusals, *verdict.warnings):
        last = finding.field_path.rpartition(".")[2].partition("[")[0]
        assert last in lines[finding.line - 1] or finding.field_path.endswith("]")
    known = {container["name"] for document in manifest.documents for container in _containers(document.body)}
    looked_into = {check.component for check in case.checks} | case.logs.keys() | case.exits.keys()
    assert looked_into <= known


@pytest.mark.parametrize("case", READABLE, ids=_name)
def test_the_policy_has_a_row_for_what_a_case_shows(case: Case) -> None:
    """Each field that an engine refuses or warns of, and each reason why, stands in the corpus's own description."""
    policy = (ROOT / "README.md").read_text()
    for finding in (*case.verdict.refusals, *case.verdict.warnings):
        fields = re.findall(r"[A-Za-z][A-Za-z-]+", re.sub(r"\[[^]]*\]", "", finding.field_path))
        assert finding.reason in policy
        assert any(field in policy for field in fields[-2:])


def _containers(body: dict[str, object]) -> list[dict[str, str]]:
    spec = body.get("spec")
    while isinstance(spec, dict):
        if isinstance(spec.get("containers"), list):
            return list(spec["containers"])
        spec = spec.get("template", {}).get("spec")
    return []


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("# Nothing expected.\n", "has no `# expect:`"),
        ("# X.\n# expect: perhaps\n", "'perhaps' is not a valid Outcome"),
        ("# X.\n# expect: refused UNKNOWN_FIELD spec.x\n", "cannot read"),
        ("# X.\n# expect: runs\n# expect: fails IMAGE_NOT_FOUND\n", "exclude each other"),
    ],
)
def test_a_header_that_cannot_be_read_is_an_error(header: str, why: str, tmp_path: Path) -> None:
    """A slip in a verdict never makes a case pass."""
    path = tmp_path / "case.yaml"
    path.write_text(header)
    with pytest.raises(ValueError, match=why):
        read(path)
