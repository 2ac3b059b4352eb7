"""Domain errors as gRPC statuses, and back."""

from __future__ import annotations

import base64
from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.errors import (
    BY_CODE,
    BeemeshError,
    Code,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    QuotaViolation,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from services.rpc.errors import DETAILS_KEY, from_details, from_rpc_error, grpc_code, to_status, translated

TRAILERS_MAX = 8192
"""Bytes of metadata that common clients accept, each entry counted with 32 bytes over."""


def received(error: BeemeshError) -> grpc.aio.AioRpcError:
    """What a client gets when a server ends with this error."""
    status = to_status(error)
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(grpc_code(error), grpc.aio.Metadata(), trailers, status.message)


def size_on_the_wire(error: BeemeshError) -> int:
    """Bytes of the trailers: the message percent-encoded, the details as base64."""
    status = to_status(error)
    entries = {
        "grpc-status": str(int(error.code)),
        "grpc-message": quote(status.message, safe="".join(map(chr, range(32, 127))).replace("%", "")),
        DETAILS_KEY: base64.b64encode(status.SerializeToString()).decode(),
        "content-type": "application/grpc",
    }
    return sum(len(key) + len(value) + 32 for key, value in entries.items())


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_an_error_that_comes_back_as_itself(code: Code) -> None:
    """Each canonical code maps to one error class, whose reason and metadata survive the wire."""
    error = BY_CODE[code]("what happened", reason="WHY_NOT", metadata={"engine": "podman"})
    found = from_rpc_error(received(error))
    assert type(found) is type(error)
    assert (found.message, found.reason, found.metadata) == ("what happened", "WHY_NOT", {"engine": "podman"})
    assert grpc_code(error).value[0] == int(code)


def test_the_domain_is_ours() -> None:
    """ErrorInfo names the domain beemesh.io."""
    info = error_details_pb2.ErrorInfo()
    assert to_status(NotFound("gone", reason="GONE")).details[0].Unpack(info)
    assert info.domain == "beemesh.io"


def test_all_details_survive_the_wire() -> None:
    """Violations with line and column, quota and retry delay come back as they were."""
    violations = (
        FieldViolation(
            field_path="spec.containers[0]", message="line 9, column 9: odd", reason="BAD", line=3, column=7
        ),
        FieldViolation(field_path="spec", message="two\nlines"),
    )
    quota = (QuotaViolation(subject="node:memory", description="asked 8, free 4"),)
    error = InvalidArgument("bad", reason="BAD", violations=violations, quota=quota, retry_after=1.5)
    found = from_rpc_error(received(error))
    assert (found.violations, found.quota, found.retry_after) == (violations, quota, 1.5)


TEXTS = st.text(st.characters(codec=None), max_size=3000)


@given(
    message=TEXTS,
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=30),
    violations=st.lists(st.builds(FieldViolation, field_path=TEXTS, message=TEXTS), max_size=60),
    quota=st.lists(st.builds(QuotaViolation, subject=TEXTS, description=TEXTS), max_size=20),
)
def test_however_much_there_is_to_say_it_fits_the_trailers(
    message: str, metadata: dict[str, str], violations: list[FieldViolation], quota: list[QuotaViolation]
) -> None:
    """Whatever text an error carries, lone surrogates included, its trailers stay small and readable."""
    error = InvalidArgument(message, reason="BAD", metadata=metadata, violations=violations, quota=quota)
    assert size_on_the_wire(error) <= TRAILERS_MAX
    found = from_rpc_error(received(error))
    assert found.reason == "BAD"
    assert bool(found.violations) == bool(violations)


def test_the_worst_text_in_every_place_still_fits() -> None:
    """Characters of four bytes everywhere, more than fit in each place: the trailers stay within the limit."""
    wide = "🐝" * 5000
    error = InvalidArgument(
        wide,
        reason="BAD",
        metadata={f"{wide}{n}": wide for n in range(9)},
        violations=[FieldViolation(field_path=wide, message=wide, line=1, column=1)] * 50,
        quota=[QuotaViolation(subject=wide, description=wide)] * 9,
        retry_after=1,
    )
    assert 5000 < size_on_the_wire(error) <= TRAILERS_MAX


def test_what_is_cut_is_counted() -> None:
    """Violations that do not fit are replaced by how many there were more."""
    many = [FieldViolation(field_path=f"spec.f{n}", message="x" * 100) for n in range(100)]
    found = from_rpc_error(received(InvalidArgument("bad", reason="BAD", violations=many))).violations
    assert found[-1].message == f"and {100 - (len(found) - 1)} more"
    assert [item.field_path for item in found[:-1]] == [item.field_path for item in many[: len(found) - 1]]


def test_a_status_of_another_server_is_still_an_error_with_a_reason() -> None:
    """A status without our details, or with broken ones, keeps its code and text."""
    for trailers in (grpc.aio.Metadata(), grpc.aio.Metadata((DETAILS_KEY, b"\xff\xff"))):
        error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, "connection refused")
        found = from_rpc_error(error)
        assert isinstance(found, Unavailable)
        assert (found.reason, found.message) == ("RPC_UNAVAILABLE", "connection refused")


def test_a_foreign_detail_is_skipped() -> None:
    """Details of a kind we do not know do not hide those that we know."""
    status = status_pb2.Status(code=8)
    status.details.add().Pack(error_details_pb2.DebugInfo(detail="stack"))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="FULL", domain="beemesh.io"))
    trailers = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    error = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), trailers, None)
    found = from_rpc_error(error)
    assert isinstance(found, ResourceExhausted)
    assert (found.reason, found.message) == ("FULL", "RESOURCE_EXHAUSTED")


def test_within_translated_a_peers_status_is_raised_as_the_domain_error() -> None:
    """The error of a called service is raised here as what it stands for, with the status as its cause."""
    original = received(NotFound("engine x is not registered", reason="ENGINE_NOT_FOUND"))
    with pytest.raises(NotFound) as caught, translated():
        raise original
    assert caught.value.reason == "ENGINE_NOT_FOUND"
    assert caught.value.__cause__ is original


def test_facts_kept_in_a_record_make_the_error_again() -> None:
    """A record's code, text, reason and metadata are the error; a number that is no code is Unknown."""
    found = from_details(13, "broken", "BACKEND_ERROR", {"id": "x"})
    assert isinstance(found, Internal)
    assert (found.message, found.reason, found.metadata) == ("broken", "BACKEND_ERROR", {"id": "x"})
    assert {type(from_details(code, "", "", {})) for code in (0, 17, -1)} == {Unknown}


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_trace_travels_and_keeps_its_end(size: int) -> None:
    """A short one whole, of a long one the end, where the error is; the trailers stay within what clients accept."""
    error = BY_CODE[Code.ABORTED]("the handler raised ValueError: ü" * 40, reason="FUNCTION_ERROR")
    error.trace = "é" * size + "ValueError: no"
    back = from_rpc_error(received(error))
    assert error.trace.endswith(back.trace)
    assert back.trace.endswith("ValueError: no")
    assert (back.trace == error.trace) is (size == 100)
    assert size_on_the_wire(error) <= TRAILERS_MAX
