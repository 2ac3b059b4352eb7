"""The whole product of what is asked, what the manifest is, what is there and what may fall back, against an oracle.

The oracle is written from the rules as people read them, and shares nothing with the code but the rules.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import pytest

from services.orchestrator import selection
from services.orchestrator.model import Candidate, Config, Decision, EngineView, Issue, Policy, Stage, Verdict, Wish
from services.orchestrator.steps import choose
from tests.unit.orchestrator.fakes import COMPOSE, FUNCTION, KUBERNETES, VIRTUAL_MACHINE, FakeEngines, view

ENGINES = ("podman", "docker", "libvirt", "wasm", "mock")
RUNS: Mapping[str, AbstractSet[int]] = {
    "podman": {KUBERNETES, COMPOSE},
    "docker": {KUBERNETES, COMPOSE},
    "libvirt": {VIRTUAL_MACHINE},
    "wasm": {FUNCTION},
    "mock": {KUBERNETES, COMPOSE, VIRTUAL_MACHINE, FUNCTION},
}
MEANT = {KUBERNETES: "podman", COMPOSE: "docker", VIRTUAL_MACHINE: "libvirt", FUNCTION: "wasm"}
SPELT = {"qemu": "libvirt", "vm": "libvirt"}

ANNOTATIONS = ("", *ENGINES, "qemu", "nonsense")
REQUESTS = ("", "docker", "vm", "mock")
POLICIES = (None, *Policy)
DEFAULTS = ("", "docker")
AVAILABLE = [frozenset(up) for n in range(len(ENGINES) + 1) for up in itertools.combinations(ENGINES, n)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One cell of the matrix."""

    form: int
    annotation: str
    request: str
    policy: Policy | None
    """None: nobody says."""
    default: str
    up: AbstractSet[str]
    drops: AbstractSet[str] = frozenset()
    """Engines that would not keep every field of the manifest."""

    @property
    def may(self) -> Policy:
        """The policy in force: naming an engine in the request implies none."""
        return self.policy or (Policy.NONE if self.request else Policy.COMPATIBLE)

    @property
    def wish(self) -> Wish:
        """What the orchestrator is asked."""
        annotations = {selection.ANNOTATION_ENGINE: self.annotation} if self.annotation else {}
        return Wish(
            manifest="",
            format=self.form,
            kinds=(),
            canonical_digest="sha256:0",
            config=Config(),
            annotations=annotations,
            engine_id=self.request,
            policy=selection.policy_of(self.policy, engine_named=bool(self.request), annotations=annotations),
        )

    @property
    def views(self) -> dict[str, EngineView]:
        """The engines as the registry tells them."""
        return {
            name: replace(view(name), available=name in self.up, reason="" if name in self.up else "DOWN")
            for name in ENGINES
        }


def oracle(case: Case) -> tuple[str, Stage] | None:
    """Who is to run it, and by which rule; None: nobody."""
    request, annotation = (SPELT.get(name, name) for name in (case.request, case.annotation))

    def can(name: str) -> bool:
        return name in case.up and case.form in RUNS[name] and (name not in case.drops or case.may is Policy.ANY)

    if "mock" in (request or annotation,):
        return ("mock", Stage.REQUEST if request else Stage.ANNOTATION) if can("mock") else None
    asked = [(request, Stage.REQUEST), (annotation, Stage.ANNOTATION)]
    if case.may is Policy.NONE:
        strict = [(name, stage) for name, stage in asked if name][:1] or [(MEANT[case.form], Stage.FORMAT)]
        return next(((name, stage) for name, stage in strict if name != "mock" and can(name)), None)
    order = [
        *asked,
        (MEANT[case.form], Stage.FORMAT),
        (case.default, Stage.DEFAULT),
        *((name, Stage.BEST_AVAILABLE) for name in sorted(ENGINES)),
    ]
    return next(((name, stage) for name, stage in order if name not in ("", "mock") and can(name)), None)


def verdict(case: Case, found: Candidate) -> str:
    """The reason that a candidate which was not taken has by right; "" where it would do."""
    if found.engine_id not in ENGINES:
        return "ENGINE_NOT_FOUND"
    if case.form not in RUNS[found.engine_id]:
        return "UNSUPPORTED_FORMAT"
    if found.engine_id not in case.up:
        return "DOWN"
    return "UNSUPPORTED_FIELD" if found.engine_id in case.drops and case.may is not Policy.ANY else ""


def check(case: Case, decision: Decision) -> None:
    """The decision is the oracle's, and every candidate has the verdict that it deserves."""
    chosen = decision.selected
    assert (None if chosen is None else (chosen.engine_id, chosen.stage)) == oracle(case), case
    names = [candidate.engine_id for candidate in decision.candidates]
    assert len(names) == len(set(names)), case
    assert "mock" not in names or names == ["mock"], case
    for place, candidate in enumerate(decision.candidates):
        if candidate is chosen:
            assert decision.fell_back == (place > 0), case
        elif chosen is None or place < decision.candidates.index(chosen):
            assert (candidate.verdict, candidate.reason) == (Verdict.REJECTED, verdict(case, candidate)), case
            assert candidate.message, case


def check_refusal(case: Case, decision: Decision) -> None:
    """It names every candidate, and says that waiting may help wherever one of them is down or not there."""
    refusal = selection.refusal(decision, case.wish)
    assert set(refusal.metadata) == {f"engine.{candidate.engine_id}" for candidate in decision.candidates}, case
    waiting_helps = any(verdict(case, found) in ("DOWN", "ENGINE_NOT_FOUND") for found in decision.candidates)
    assert refusal.reason == ("NO_ENGINE_AVAILABLE" if waiting_helps else "UNSUPPORTED_KIND"), case


def matrix() -> Iterator[Case]:
    """All of it."""
    for form, annotation, request, policy, default, up in itertools.product(
        MEANT, ANNOTATIONS, REQUESTS, POLICIES, DEFAULTS, AVAILABLE
    ):
        yield Case(form=form, annotation=annotation, request=request, policy=policy, default=default, up=up)


def test_every_cell_of_the_matrix_is_as_the_rules_say() -> None:
    """Annotation × request × format × policy × default × availability, all 32,768 of them, refusals too."""
    count = 0
    for case in matrix():
        decision = selection.decide(selection.candidates(case.wish, case.views, default=case.default))
        check(case, decision)
        if decision.selected is None:
            check_refusal(case, decision)
        count += 1
    assert count == 4 * 8 * 4 * 4 * 2 * 32


class _Choosy(FakeEngines):
    """Engines that refuse a field, unless they are asked to warn only."""

    def __init__(self, *views: EngineView, drops: AbstractSet[str]) -> None:
        super().__init__(*views)
        self._drops = drops

    async def validate(self, engine_id: str, wish: Wish, *, warn: bool) -> Sequence[Issue]:
        if engine_id not in self._drops:
            return ()
        return [Issue(severity=1 if warn else 2, field_path="x", reason="UNSUPPORTED_FIELD", message="not kept")]


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_engine_that_would_drop_a_field_is_passed_over_but_where_any_will_do(policy: Policy | None) -> None:
    """With every set of engines that drop a field: only ANY takes one of those, and has the issue told."""
    both = ("podman", "docker")
    subsets = [frozenset(some) for n in range(3) for some in itertools.combinations(both, n)]
    for form, annotation, up, drops in itertools.product((KUBERNETES, COMPOSE), ("", *both), subsets, subsets):
        case = Case(form=form, annotation=annotation, request="", policy=policy, default="", up=up, drops=drops)
        decision = await choose(_Choosy(*case.views.values(), drops=drops), case.wish)
        check(case, decision)
        if (chosen := decision.selected) is not None:
            assert [issue.severity for issue in chosen.issues] == ([1] if chosen.engine_id in drops else []), case
