"""How beectl says that something went wrong: one block of text, positions first."""

from __future__ import annotations

from services.errors import BeemeshError, Code, FieldViolation, Unavailable


class Failure(Exception):
    """A failure of our own, before or after any call; its text is all there is to say."""


def unreachable(target: str, error: BeemeshError) -> BeemeshError:
    """Say which address did not answer, and what to look at."""
    return Unavailable(
        f"no node answers at {target}: is beemesh-node running, and may this user reach it? ({error.message})",
        reason="NODE_UNREACHABLE",
    )


def block(error: BeemeshError, *, source: str = "") -> str:
    """The error as text; `source` is the file that positions refer to."""
    lines = [f"error: {Code(error.code).name} {error.reason}", f"  {error.message}"]
    lines += [f"  {violation_line(violation, source=source)}" for violation in error.violations]
    lines += [f"  {item.subject}: {item.description}" for item in error.quota]
    lines += [f"  | {line}" for line in error.trace.splitlines()]
    if error.retry_after is not None:
        lines.append(f"  try again in {error.retry_after:g}s")
    return "\n".join(lines)


def violation_line(violation: FieldViolation, *, source: str) -> str:
    """`file:line:column: field: message`, as editors understand it; without what is not known."""
    place = f"{source}:{violation.line}:{violation.column}" if violation.line and source else ""
    return ": ".join(part for part in (place, violation.field_path, violation.message) if part)
