"""Which engine runs a manifest, and why: pure, from what the registry and the engines said.

Order: the request's engine → the annotation's → the format's → the registry's default → the best available. A candidate
must be available, not cordoned, know the format and its kinds, and accept this very manifest (it is asked later).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from services.errors import (
    BeemeshError,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from services.orchestrator.model import Candidate, Decision, EngineView, Issue, Policy, Stage, Verdict, Wish

ANNOTATION_ENGINE = "beemesh.io/runtime-engine"
ANNOTATION_POLICY = "beemesh.io/fallback-policy"
MOCK = "mock"
"""The test double: chosen by name only, and never a fallback."""

PREFERRED: Mapping[int, str] = {1: "podman", 2: "docker", 3: "libvirt", 4: "wasm"}
"""The engine that a manifest format means, by the numbers of beemesh.type.v1.ManifestFormat."""

ALIASES: Mapping[str, str] = {"qemu": "libvirt", "vm": "libvirt", "kvm": "libvirt"}
"""Names that are understood though their engine has not registered."""

_ISSUE_ERROR = 2


def resolve(name: str, views: Iterable[EngineView]) -> str:
    """The engine id that a name or alias stands for; an unknown name stands for itself."""
    wanted = name.strip().lower()
    for view in views:
        if wanted == view.engine_id or wanted in view.aliases:
            return view.engine_id
    return ALIASES.get(wanted, wanted)


def policy_of(asked: Policy | None, *, engine_named: bool, annotations: Mapping[str, str]) -> Policy:
    """The fallback policy in force: the request's, else the annotation's, else NONE if an engine was named."""
    if asked is not None:
        return asked
    text = annotations.get(ANNOTATION_POLICY)
    if text is not None:
        return Policy[text.strip().upper()]  # whoever read the manifest has refused what is none
    return Policy.NONE if engine_named else Policy.COMPATIBLE


def candidates(
    wish: Wish, views: Mapping[str, EngineView], *, default: str, current: str = "", excluded: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """Every engine in the order of preference, REJECTED with the reason or ELIGIBLE (not asked yet).

    `current` is the engine that holds the deployment now, for the choice sticks ("" when the client names an engine
    anew). `excluded` engines failed in this operation. Raises NotFound when the request names no engine of ours.
    """
    order = _order(wish, views, default, current)
    found: list[Candidate] = []
    for engine_id, stage in order:
        reason, message = _objection(engine_id, views.get(engine_id), wish, excluded)
        verdict = Verdict.REJECTED if reason else Verdict.ELIGIBLE
        found.append(Candidate(engine_id=engine_id, stage=stage, verdict=verdict, reason=reason, message=message))
    return _suspects_last(found, views)


def _order(wish: Wish, views: Mapping[str, EngineView], default: str, current: str) -> list[tuple[str, Stage]]:
    known = views.values()
    requested = resolve(wish.engine_id, known) if wish.engine_id else ""
    if requested and requested not in views:
        registered = ", ".join(sorted(views)) or "none"
        raise NotFound(
            f"engine {wish.engine_id!r} is not registered on this node; registered: {registered}",
            reason="ENGINE_NOT_FOUND",
            metadata={"engine": wish.engine_id},
        )
    annotated = resolve(wish.annotations.get(ANNOTATION_ENGINE, ""), known)
    named = requested or annotated
    if named == MOCK:
        return [(MOCK, Stage.REQUEST if requested else Stage.ANNOTATION)]
    wanted = [(requested, Stage.REQUEST), (annotated, Stage.ANNOTATION)]
    if wish.policy is Policy.NONE and named:
        wanted = wanted[:1] if requested else wanted
    else:
        wanted = [(current, Stage.BEST_AVAILABLE), *wanted, (PREFERRED.get(wish.format, ""), Stage.FORMAT)]
        if wish.policy is not Policy.NONE:
            wanted += [(default, Stage.DEFAULT), *_best(views)]
    return _without_repeats(wanted, current)


def _best(views: Mapping[str, EngineView]) -> list[tuple[str, Stage]]:
    ranked = sorted(views.values(), key=lambda view: (not view.available, view.suspect, view.priority, view.engine_id))
    return [(view.engine_id, Stage.BEST_AVAILABLE) for view in ranked]


def _without_repeats(wanted: Iterable[tuple[str, Stage]], current: str) -> list[tuple[str, Stage]]:
    """First place, best-known stage; mock only where it runs already, for it is never a fallback."""
    pairs = [(engine, stage) for engine, stage in wanted if engine and (engine != MOCK or engine == current)]
    stages: dict[str, Stage] = {}
    for engine, stage in pairs:
        stages[engine] = min(stage, stages.get(engine, stage))
    return list(stages.items())


def _objection(engine_id: str, view: EngineView | None, wish: Wish, excluded: Sequence[str]) -> tuple[str, str]:
    """Why this engine is out of the question: (reason, message), or two empty strings."""
    if view is None:
        return "ENGINE_NOT_FOUND", f"no engine {engine_id!r} is registered on this node"
    if engine_id in excluded:
        return "ALREADY_TRIED", "it failed earlier in this operation"
    if not view.available and not view.formats:  # it has just (re)started: what it runs is not known yet
        return _unusable(view)
    if wish.format not in view.formats:
        return "UNSUPPORTED_FORMAT", f"{engine_id} does not run this manifest format"
    missing = sorted(set(wish.kinds) - view.kinds) if view.kinds else []
    if missing:
        return "UNSUPPORTED_KIND", f"{engine_id} does not run kind {', '.join(missing)}"
    if not view.available:
        return _unusable(view)
    if view.cordoned:
        return "CORDONED", f"{engine_id} takes no new deployments"
    return "", ""


def _unusable(view: EngineView) -> tuple[str, str]:
    """That it is not available, with its own words on why."""
    why = f": {view.message}" if view.message else ""
    return view.reason or "UNAVAILABLE", f"{view.engine_id} cannot be used now{why}"


def _suspects_last(found: Sequence[Candidate], views: Mapping[str, EngineView]) -> tuple[Candidate, ...]:
    """A flapping engine is used only if nothing else is available."""

    def suspect(candidate: Candidate) -> bool:
        view = views.get(candidate.engine_id)
        return candidate.verdict is Verdict.ELIGIBLE and view is not None and view.suspect

    return tuple(sorted(found, key=suspect))


def accepted(candidate: Candidate, issues: Sequence[Issue]) -> Candidate:
    """What becomes of an ELIGIBLE candidate once its engine has looked at the manifest (in the wish's mode)."""
    errors = [issue for issue in issues if issue.severity == _ISSUE_ERROR]
    if not errors:
        return replace(candidate, issues=tuple(issues))
    first = errors[0]
    return replace(
        candidate,
        verdict=Verdict.REJECTED,
        reason=first.reason,
        message=f"{first.field_path}: {first.message}" if first.field_path else first.message,
        issues=tuple(issues),
    )


def decide(found: Sequence[Candidate]) -> Decision:
    """Select the first ELIGIBLE candidate."""
    chosen = next((candidate for candidate in found if candidate.verdict is Verdict.ELIGIBLE), None)
    return Decision(candidates=tuple(replace(c, verdict=Verdict.SELECTED) if c is chosen else c for c in found))


_TEMPORARY = {"ENGINE_NOT_FOUND", "CORDONED", "ALREADY_TRIED", "ENGINE_UNREACHABLE"}
_WRONG_ANYWHERE = {"UNKNOWN_OPTION", "MANIFEST_INVALID"}
"""What is wrong with the request itself, whatever the engine: no other one helps, nor does waiting."""
_UNFIT = {"UNSUPPORTED_FORMAT", "UNSUPPORTED_KIND"}


def refusal(decision: Decision, wish: Wish) -> BeemeshError:
    """Why nothing was selected, with a verdict for each candidate in the error's metadata."""
    verdicts = {f"engine.{c.engine_id}": f"{c.reason}: {c.message}" for c in decision.candidates}
    fit = [c for c in decision.candidates if c.reason not in _UNFIT]
    told = (
        "; ".join(f"{c.engine_id}: {c.reason} ({c.message})" for c in decision.candidates) or "no engine is registered"
    )
    by_field = [c for c in fit if c.issues]
    wrong = [c for c in by_field if c.reason in _WRONG_ANYWHERE]
    if wrong or (by_field and (len(by_field) == len(fit) or wish.policy is Policy.NONE)):
        first = (wrong or by_field)[0]
        kind = InvalidArgument if wrong else FailedPrecondition
        return kind(
            f"no engine can run this manifest as it is: {told}",
            reason=first.reason,
            metadata=verdicts,
            violations=[_violation(issue) for issue in first.issues if issue.severity == _ISSUE_ERROR],
        )
    if not fit and decision.candidates:
        return FailedPrecondition(
            f"no engine of this node runs this kind of manifest: {told}", reason="UNSUPPORTED_KIND", metadata=verdicts
        )
    return Unavailable(f"no engine can take it now: {told}", reason="NO_ENGINE_AVAILABLE", metadata=verdicts)


def _violation(issue: Issue) -> FieldViolation:
    return FieldViolation(
        field_path=issue.field_path, message=issue.message, reason=issue.reason, line=issue.line, column=issue.column
    )


def first_eligible(found: Sequence[Candidate], skip: Callable[[Candidate], bool]) -> Candidate | None:
    """The next candidate whose engine has yet to be asked."""
    return next((c for c in found if c.verdict is Verdict.ELIGIBLE and not skip(c)), None)
