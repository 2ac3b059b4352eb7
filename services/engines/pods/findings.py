"""What is said about one field of a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from services.engines.engine import Issue, Severity
from services.errors import FieldViolation
from services.manifests import Document, Path, violation

UNSUPPORTED_FIELD = "UNSUPPORTED_FIELD"
IGNORED_FIELD = "IGNORED_FIELD"
HOST_ACCESS_DENIED = "HOST_ACCESS_DENIED"
REFERENCE_NOT_FOUND = "REFERENCE_NOT_FOUND"
BAD_VALUE = "BAD_VALUE"

_OF_VALUES = frozenset({BAD_VALUE, REFERENCE_NOT_FOUND})
"""Their line is the value's, not the key's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One finding, with its place."""

    violation: FieldViolation
    severity: Severity = Severity.ERROR

    @property
    def reason(self) -> str:
        """UPPER_SNAKE."""
        return self.violation.reason

    def issue(self) -> Issue:
        """The same in the engine interface's words."""
        return Issue(
            severity=self.severity,
            field_path=self.violation.field_path,
            reason=self.violation.reason,
            message=self.violation.message,
            line=self.violation.line,
            column=self.violation.column,
        )


def found(document: Document, path: Path, message: str, reason: str, *, severity: Severity = Severity.ERROR) -> Found:
    """A finding about the field at `path`."""
    at = violation(document, path, message, reason, at_key=reason not in _OF_VALUES)
    return Found(violation=at, severity=severity)
