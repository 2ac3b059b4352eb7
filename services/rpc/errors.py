"""Domain errors to gRPC statuses with google.rpc details, and back: the only place that maps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from services.errors import BY_CODE, DOMAIN, BeemeshError, Code, FieldViolation, QuotaViolation, Unknown

DETAILS_KEY = "grpc-status-details-bin"

# Bytes. All trailers together stay under the 8 KiB that common clients accept: the message travels percent-encoded and
# once more in the details, and the details travel as base64.
_MESSAGE_MAX = 1500
_STATUS_MAX = 4500
_INFO_MAX = 1200
_QUOTA_MAX = 600
_REST = 64  # for "and N more"
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}
_CODES = {int(code) for code in Code}
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of writing."""
_PLACE = re.compile(r"line (\d+), column (\d+): (.*)", re.DOTALL)


def grpc_code(error: BeemeshError) -> grpc.StatusCode:
    """The gRPC status code of a domain error."""
    return _GRPC_CODES[int(error.code)]


def to_status(error: BeemeshError) -> status_pb2.Status:
    """The rich status of a domain error; violations that would overflow the trailers are cut and counted."""
    status = status_pb2.Status(code=int(error.code), message=_clip(error.message, _MESSAGE_MAX, _percent_encoded))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        info.metadata[_clip(key, 64)] = _clip(value, 300)
        if info.ByteSize() > _INFO_MAX:
            del info.metadata[_clip(key, 64)]
    status.details.add().Pack(info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        status.details.add().Pack(retry)
    if error.quota:
        quota = error_details_pb2.QuotaFailure()
        for item in error.quota:
            quota.violations.add(subject=_clip(item.subject, 100), description=_clip(item.description, 300))
            if quota.ByteSize() > _QUOTA_MAX:
                del quota.violations[-1]
        status.details.add().Pack(quota)
    if error.trace:
        room = _STATUS_MAX - status.ByteSize() - _REST
        # Of a trace the end counts: there is the error.
        trace = error.trace.encode(errors="replace")[-room:].decode(errors="ignore")
        status.details.add().Pack(error_details_pb2.DebugInfo(detail=trace))
    if error.violations:
        _pack_violations(status, error.violations)
    return status


def _pack_violations(status: status_pb2.Status, violations: tuple[FieldViolation, ...]) -> None:
    room = _STATUS_MAX - status.ByteSize() - _REST
    bad = error_details_pb2.BadRequest()
    for number, violation in enumerate(violations):
        place = f"line {violation.line}, column {violation.column}: " if violation.line else ""
        bad.field_violations.add(
            field=_clip(violation.field_path, 300),
            description=_clip(place + violation.message, 400),
            reason=violation.reason,
        )
        if bad.ByteSize() > room:
            del bad.field_violations[-1]
            bad.field_violations.add(field="…", description=f"and {len(violations) - number} more")
            break
    status.details.add().Pack(bad)


def from_rpc_error(error: grpc.aio.AioRpcError) -> BeemeshError:
    """The domain error that a peer sent; a status without ErrorInfo gets reason `RPC_<CODE>`."""
    code = Code(error.code().value[0]) if error.code() is not grpc.StatusCode.OK else Code.UNKNOWN
    message = error.details() or code.name
    trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
    found = BY_CODE[code](message, reason=f"RPC_{code.name}")
    raw = trailers.get(DETAILS_KEY)
    if isinstance(raw, bytes):
        _unpack(raw, found)
    return found


def from_details(code: int, message: str, reason: str, metadata: dict[str, str]) -> BeemeshError:
    """A domain error from facts kept in a record; a code that is none is Unknown."""
    kind = BY_CODE[Code(code)] if code in _CODES else Unknown
    return kind(message, reason=reason, metadata=metadata)


def _unpack(raw: bytes, error: BeemeshError) -> None:
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
    debug = error_details_pb2.DebugInfo()
    for detail in status.details:
        if detail.Unpack(info):
            error.reason, error.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            error.violations = tuple(_violation(item) for item in bad.field_violations)
        elif detail.Unpack(retry):
            error.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(debug):
            error.trace = debug.detail
        elif detail.Unpack(quota):
            error.quota = tuple(QuotaViolation(subject=v.subject, description=v.description) for v in quota.violations)


def _violation(item: error_details_pb2.BadRequest.FieldViolation) -> FieldViolation:
    place = _PLACE.fullmatch(item.description)
    line, column, message = (int(place[1]), int(place[2]), place[3]) if place else (0, 0, item.description)
    return FieldViolation(field_path=item.field, message=message, reason=item.reason, line=line, column=column)


@contextmanager
def translated() -> Iterator[None]:
    """Within it, a peer's status is raised as the domain error it stands for."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _encoded(text: str) -> int:
    return len(text.encode())


def _percent_encoded(text: str) -> int:
    return sum(1 if " " <= character <= "~" and character != "%" else 3 * _encoded(character) for character in text)


def _clip(text: str, limit: int, measure: Callable[[str], int] = _encoded) -> str:
    """The text, cut to `limit` bytes on the wire; what UTF-8 cannot say (a file name's stray byte) becomes `?`.

    What would steer a terminal instead of being shown there becomes an escape: callers' texts come back in errors.
    """
    text = _STEERING.sub(_escaped, text[: limit + 1].encode(errors="replace").decode())
    if measure(text) <= limit:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(text[:middle] + "…") <= limit else (low, middle - 1)
    return text[:low] + "…"
