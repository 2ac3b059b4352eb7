"""Collects what is wrong with a manifest, bounded, and raises it as one error."""

from __future__ import annotations

from services.errors import FieldViolation, InvalidArgument
from services.manifests.paths import printable

MAX_FINDINGS = 50
"""A manifest with more findings than these is reported with the first ones only."""
_LONGEST_PATH = 200


class Findings:
    """The violations found so far, in the order found; keeps the first `MAX_FINDINGS`."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    @property
    def full(self) -> bool:
        """Whether looking further is in vain."""
        return len(self._violations) >= MAX_FINDINGS

    def add(self, violation: FieldViolation) -> None:
        """Keeps it, unless there are enough or it is known already."""
        if not self.full and violation not in self._violations:
            self._violations.append(violation)

    def raise_if_any(self) -> None:
        """Raises InvalidArgument with every finding, sorted by line."""
        if self._violations:
            raise refusal(*sorted(self._violations, key=lambda found: (found.line, found.column)))


def refusal(*violations: FieldViolation) -> InvalidArgument:
    """The error for these violations: their reason if they share one, else MANIFEST_INVALID."""
    reasons = {violation.reason for violation in violations}
    reason = reasons.pop() if len(reasons) == 1 else "MANIFEST_INVALID"
    first = violations[0]
    where = f"{_cut(first.field_path, _LONGEST_PATH)} " if first.field_path else ""
    where += f"(line {first.line}, column {first.column}): " if first.line else ""
    more = len(violations) - 1
    rest = f" And {more} more finding{'s' * (more > 1)}." if more else ""
    return InvalidArgument(f"invalid manifest: {where}{first.message}{rest}", reason=reason, violations=violations)


def shorten(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: quoted when it is text, never long, and harmless to a terminal."""
    if isinstance(value, str):
        return _cut(f'"{printable(value[: limit + 1])}"', limit)
    return _cut(str(value).lower() if isinstance(value, bool) else str(value), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
