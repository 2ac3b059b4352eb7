"""What a manifest's `beemesh.io/*` annotations may say; one that says anything else is a finding at its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.errors import InvalidArgument
from services.manifests import resources
from services.manifests.documents import Document, violation
from services.manifests.findings import Findings, shorten

_ENGINE = "beemesh.io/runtime-engine"
_ENGINE_MAX = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """An annotation that names one of a few things, in any case."""

    key: str
    values: Sequence[str]
    reason: str


_CHOICES = (
    _Choice(key="beemesh.io/fallback-policy", values=("NONE", "COMPATIBLE", "ANY"), reason="BAD_FALLBACK_POLICY"),
    _Choice(key="beemesh.io/drift-policy", values=("repair", "report"), reason="BAD_VALUE"),
)


def check(document: Document, findings: Findings) -> None:
    """Adds a finding for each of our annotations that cannot be understood.

    An engine that nobody knows is none: the choice of the engine passes it over, and says so.
    """
    said = document.beemesh_annotations()
    for choice in _CHOICES:
        _check_choice(document, choice, said, findings)
    engine = said.get(_ENGINE, "")
    if len(engine) > _ENGINE_MAX or not engine.isprintable():
        message = f"an engine's name has at most {_ENGINE_MAX} characters that can be printed, not {shorten(engine)}"
        findings.add(violation(document, document.annotation_source(_ENGINE) or (), message, "BAD_VALUE"))
    for key in (resources.CPU_HINT, resources.MEMORY_HINT):
        try:
            resources.hint(document, key)
        except InvalidArgument as error:
            for found in error.violations:
                findings.add(found)


def _check_choice(document: Document, choice: _Choice, said: Mapping[str, str], findings: Findings) -> None:
    value = said.get(choice.key)
    if value is None or value.strip().lower() in (known.lower() for known in choice.values):
        return
    message = f"must be {', '.join(choice.values[:-1])} or {choice.values[-1]}, is {shorten(value)}"
    findings.add(violation(document, document.annotation_source(choice.key) or (), message, choice.reason))
