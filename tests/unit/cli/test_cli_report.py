"""How beectl says that something went wrong."""

from __future__ import annotations

from services.cli.report import block, unreachable, violation_line
from services.errors import FieldViolation, InvalidArgument, QuotaViolation, ResourceExhausted, Unavailable


def test_an_error_names_code_reason_and_message() -> None:
    """The block opens with code and reason; the message follows."""
    text = block(Unavailable("podman does not answer", reason="BACKEND_UNREACHABLE", retry_after=5))
    assert text.splitlines() == [
        "error: UNAVAILABLE BACKEND_UNREACHABLE",
        "  podman does not answer",
        "  try again in 5s",
    ]


def test_a_violation_is_placed_as_editors_read_it() -> None:
    """A violation with a position reads file:line:column: field: message."""
    violation = FieldViolation(field_path="spec.x", message="unknown field", line=7, column=5)
    text = block(InvalidArgument("bad", reason="MANIFEST_INVALID", violations=[violation]), source="a/pod.yaml")
    assert text.splitlines()[-1] == "  a/pod.yaml:7:5: spec.x: unknown field"


def test_a_violation_without_a_line_names_its_field() -> None:
    """Where there is no text there is no position."""
    violation = FieldViolation(field_path="page_size", message="must not be negative")
    assert violation_line(violation, source="pod.yaml") == "page_size: must not be negative"


def test_a_violation_without_a_field_is_still_placed() -> None:
    """Broken YAML has a line and no field."""
    violation = FieldViolation(field_path="", message="no closing bracket", line=3, column=1)
    assert violation_line(violation, source="stdin") == "stdin:3:1: no closing bracket"


def test_what_ran_out_is_said() -> None:
    """Each quota that was exceeded has its line."""
    error = ResourceExhausted(
        "no room", reason="INSUFFICIENT_MEMORY", quota=[QuotaViolation(subject="node:memory", description="8 of 4 GB")]
    )
    assert "  node:memory: 8 of 4 GB" in block(error).splitlines()


def test_a_node_that_does_not_answer_is_named_by_its_address() -> None:
    """When nobody answers, the address and what to look at are said."""
    text = block(unreachable("unix:/run/x.sock", Unavailable("connection refused", reason="RPC_UNAVAILABLE")))
    assert "no node answers at unix:/run/x.sock" in text
    assert "beemesh-node" in text
