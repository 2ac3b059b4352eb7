"""Places in a manifest's text, and the faults that are found at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from services.errors import FieldViolation, InvalidArgument
from services.manifests.findings import refusal


class Position(NamedTuple):
    """A place in the manifest's text."""

    line: int
    """1-based."""
    column: int
    """1-based, in characters."""


class Mark(Protocol):
    """A place as the parser gives it, counted from 0; turned into a Position only when someone asks."""

    @property
    def line(self) -> int: ...  # noqa: D102

    @property
    def column(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Place:
    """A mark that does not come from the parser."""

    line: int
    column: int


START: Final = Place(0, 0)


def position_of(mark: Mark) -> Position:
    """The place of a mark, counted from 1."""
    return Position(mark.line + 1, mark.column + 1)


def syntax(message: str, mark: Mark, reason: str = "MANIFEST_SYNTAX", path: str = "") -> InvalidArgument:
    """The error for text that is not read any further."""
    return refusal(fault(message, mark, reason, path))


def fault(message: str, mark: Mark, reason: str, path: str) -> FieldViolation:
    """A finding at this place."""
    line, column = position_of(mark)
    return FieldViolation(field_path=path, message=message, reason=reason, line=line, column=column)
