"""Which engine runs a manifest: the seed's matrix and our rules, on engines in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.orchestrator import selection
from services.orchestrator.model import Config, EngineView, Issue, Policy, Stage, Verdict, Wish
from tests.unit.orchestrator.fakes import COMPOSE, FUNCTION, KUBERNETES, VIRTUAL_MACHINE, view

ALL = {name: view(name) for name in ("podman", "docker", "libvirt", "wasm", "mock")}


def wish(form: int = KUBERNETES, *, annotation: str = "", engine_id: str = "", policy: Policy | None = None) -> Wish:
    annotations = {selection.ANNOTATION_ENGINE: annotation} if annotation else {}
    return Wish(
        manifest="",
        format=form,
        kinds=(),
        canonical_digest="sha256:0",
        config=Config(),
        annotations=annotations,
        engine_id=engine_id,
        policy=policy or selection.policy_of(None, engine_named=bool(engine_id), annotations=annotations),
    )


def down(*names: str) -> dict[str, EngineView]:
    return {
        name: replace(item, available=False, reason="UNHEALTHY") if name in names else item
        for name, item in ALL.items()
    }


@pytest.mark.parametrize(
    ("form", "annotation", "engines", "expected", "stage"),
    [
        (KUBERNETES, "", ALL, "podman", Stage.FORMAT),
        (COMPOSE, "", ALL, "docker", Stage.FORMAT),
        (VIRTUAL_MACHINE, "", ALL, "libvirt", Stage.FORMAT),
        (FUNCTION, "", ALL, "wasm", Stage.FORMAT),
        (KUBERNETES, "docker", ALL, "docker", Stage.ANNOTATION),
        (COMPOSE, "podman", ALL, "podman", Stage.ANNOTATION),
        (VIRTUAL_MACHINE, "qemu", ALL, "libvirt", Stage.ANNOTATION),
        (VIRTUAL_MACHINE, "vm", ALL, "libvirt", Stage.ANNOTATION),
        (KUBERNETES, "mock", ALL, "mock", Stage.ANNOTATION),
        (COMPOSE, "mock", ALL, "mock", Stage.ANNOTATION),
        (KUBERNETES, "nonsense", ALL, "podman", Stage.FORMAT),
        (KUBERNETES, "podman", down("podman"), "docker", Stage.BEST_AVAILABLE),
        (KUBERNETES, "docker", down("docker"), "podman", Stage.FORMAT),
        (COMPOSE, "", down("docker"), "podman", Stage.BEST_AVAILABLE),
        (KUBERNETES, "", down("podman", "docker"), None, None),
        (VIRTUAL_MACHINE, "", down("libvirt"), None, None),
        (FUNCTION, "podman", ALL, "wasm", Stage.FORMAT),
        (KUBERNETES, "mock", down("mock"), None, None),
    ],
)
def test_the_annotation_beats_the_format_and_the_format_beats_what_is_left(
    form: int, annotation: str, engines: dict[str, EngineView], expected: str | None, stage: Stage | None
) -> None:
    """The annotation beats the format, and the format beats what is left."""
    decision = selection.decide(selection.candidates(wish(form, annotation=annotation), engines, default=""))
    chosen = decision.selected
    assert (chosen.engine_id if chosen else None, chosen.stage if chosen else None) == (expected, stage)


def test_mock_is_never_a_fallback() -> None:
    """Mock is no candidate unless it was named, whatever else is down."""
    found = selection.candidates(wish(), down("podman", "docker", "libvirt", "wasm"), default="mock")
    assert "mock" not in [candidate.engine_id for candidate in found]


def test_naming_mock_leaves_nothing_else() -> None:
    """Naming mock implies no fallback."""
    found = selection.candidates(wish(annotation="mock"), down("mock"), default="podman")
    assert [(c.engine_id, c.verdict, c.reason) for c in found] == [("mock", Verdict.REJECTED, "UNHEALTHY")]


def test_a_request_beats_the_annotation_and_implies_no_fallback() -> None:
    """The request's engine is the only candidate unless a policy says otherwise."""
    only = selection.candidates(wish(annotation="podman", engine_id="docker"), ALL, default="")
    assert [(c.engine_id, c.stage) for c in only] == [("docker", Stage.REQUEST)]
    more = selection.candidates(
        wish(annotation="podman", engine_id="docker", policy=Policy.COMPATIBLE), ALL, default=""
    )
    assert [c.engine_id for c in more][:2] == ["docker", "podman"]


def test_a_request_for_an_engine_that_is_not_there_is_not_found() -> None:
    """A request that names no engine of this node ends in NOT_FOUND and lists those there are."""
    with pytest.raises(NotFound, match="registered: docker, libvirt, mock, podman, wasm"):
        selection.candidates(wish(engine_id="nonsense"), ALL, default="")


def test_an_unknown_annotation_falls_through_with_its_reason() -> None:
    """An annotation nobody knows is kept as a rejected candidate."""
    first, *_ = selection.candidates(wish(annotation="nonsense"), ALL, default="")
    assert (first.engine_id, first.stage, first.verdict, first.reason) == (
        "nonsense",
        Stage.ANNOTATION,
        Verdict.REJECTED,
        "ENGINE_NOT_FOUND",
    )


def test_the_default_comes_before_the_best_available() -> None:
    """The registry's default is asked before the rest."""
    engines = {"podman": replace(ALL["podman"], available=False), "a": view("a"), "z": view("z")}
    found = selection.decide(selection.candidates(wish(), engines, default="z"))
    assert found.selected is not None
    assert (found.selected.engine_id, found.selected.stage, found.fell_back) == ("z", Stage.DEFAULT, True)


def test_a_flapping_engine_is_used_only_if_nothing_else_is_there() -> None:
    """A suspect engine comes last among the eligible."""
    engines = {"podman": replace(ALL["podman"], suspect=True), "docker": ALL["docker"]}
    found = selection.decide(selection.candidates(wish(), engines, default=""))
    assert found.selected is not None
    assert found.selected.engine_id == "docker"
    alone = selection.decide(selection.candidates(wish(), {"podman": engines["podman"]}, default=""))
    assert alone.selected is not None


def test_an_engine_that_has_just_started_is_not_unfit() -> None:
    """What an engine runs is not known before it has said so: that passes, and the refusal says that it may."""
    engines = {"podman": replace(ALL["podman"], available=False, reason="HEALTH_UNKNOWN", formats=frozenset())}
    decision = selection.decide(selection.candidates(wish(), engines, default=""))
    assert isinstance(selection.refusal(decision, wish()), Unavailable)
    assert decision.candidates[0].reason == "HEALTH_UNKNOWN"


def test_an_engine_that_cannot_be_used_says_why_in_its_own_words() -> None:
    """The reason is for programs, the message has the engine's words."""
    sick = replace(ALL["podman"], available=False, reason="UNHEALTHY:PING_TIMEOUT", message="podman is frozen")
    (only,) = selection.candidates(wish(), {"podman": sick}, default="")
    assert (only.reason, only.message) == ("UNHEALTHY:PING_TIMEOUT", "podman cannot be used now: podman is frozen")


def test_a_cordoned_engine_takes_nothing_new() -> None:
    """A cordon is a reason of its own."""
    engines = {"podman": replace(ALL["podman"], cordoned=True)}
    (only,) = selection.candidates(wish(), engines, default="")
    assert (only.verdict, only.reason) == (Verdict.REJECTED, "CORDONED")


def test_the_choice_sticks_to_where_it_runs() -> None:
    """An engine that holds the deployment comes first."""
    found = selection.decide(selection.candidates(wish(), ALL, default="", current="docker"))
    assert found.selected is not None
    assert found.selected.engine_id == "docker"


@pytest.mark.parametrize(
    ("text", "expected"), [("none", Policy.NONE), ("COMPATIBLE", Policy.COMPATIBLE), ("Any", Policy.ANY)]
)
def test_the_policy_may_stand_in_the_manifest(text: str, expected: Policy) -> None:
    """The annotation beemesh.io/fallback-policy is read in any case."""
    annotations = {selection.ANNOTATION_POLICY: text}
    assert selection.policy_of(None, engine_named=False, annotations=annotations) is expected
    assert selection.policy_of(Policy.NONE, engine_named=False, annotations=annotations) is Policy.NONE


def test_a_refusal_names_every_candidate() -> None:
    """The refusal carries a verdict per engine, and its code says whether waiting helps."""
    tried = selection.decide(selection.candidates(wish(), down("podman", "docker"), default=""))
    refusal = selection.refusal(tried, wish())
    assert isinstance(refusal, Unavailable)
    assert {"engine.podman", "engine.docker"} <= set(refusal.metadata)
    odd = replace(wish(FUNCTION), kinds=("Function",))
    unfit = {"podman": ALL["podman"], "wasm": replace(ALL["wasm"], kinds=frozenset({"Other"}))}
    tried = selection.decide(selection.candidates(odd, unfit, default=""))
    assert isinstance(selection.refusal(tried, odd), FailedPrecondition)


def test_a_field_that_no_engine_honours_is_refused_by_its_path() -> None:
    """When all that could run it refuse a field, the refusal is theirs, with path and line."""
    issue = Issue(severity=2, field_path="spec.x", reason="UNSUPPORTED_FIELD", message="not honoured", line=7)
    engines = {"podman": ALL["podman"]}
    (candidate,) = selection.candidates(wish(), engines, default="")
    rejected = selection.accepted(candidate, [issue])
    refusal = selection.refusal(selection.decide([rejected]), wish())
    assert (refusal.reason, refusal.violations[0].field_path, refusal.violations[0].line) == (
        "UNSUPPORTED_FIELD",
        "spec.x",
        7,
    )
    warned = selection.accepted(candidate, [replace(issue, severity=1)])
    assert (warned.verdict, warned.issues) == (Verdict.ELIGIBLE, (replace(issue, severity=1),))


def test_a_text_that_an_engine_cannot_read_is_the_callers_to_mend() -> None:
    """INVALID_ARGUMENT with the line, also where another engine is down or cannot read it either."""
    issue = Issue(severity=2, field_path="secrets.password", reason="MANIFEST_INVALID", message="no such key", line=18)
    found = selection.candidates(wish(COMPOSE), down("podman"), default="")
    asked = [selection.accepted(c, [issue]) if c.verdict is Verdict.ELIGIBLE else c for c in found]
    error = selection.refusal(selection.decide(asked), wish(COMPOSE))
    assert (type(error), error.reason, error.violations[0].line) == (InvalidArgument, "MANIFEST_INVALID", 18)
