"""The errors that cores raise: one class per canonical code, facts as fields, no gRPC.

`services.rpc.errors` maps them to a gRPC status with `google.rpc.ErrorInfo` (domain `beemesh.io`) and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

DOMAIN = "beemesh.io"


class Code(IntEnum):
    """The canonical codes, with the numbers of google.rpc.Code."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One bad field of a request; travels as google.rpc.BadRequest.FieldViolation."""

    field_path: str
    """Path in the request or manifest, e.g. `spec.containers[0].image`; for several documents `[1].spec`."""
    message: str
    reason: str = ""
    """UPPER_SNAKE_CASE, e.g. UNKNOWN_FIELD."""
    line: int = 0
    """1-based line in the manifest's text; 0 where there is no text."""
    column: int = 0
    """1-based; 0 where there is no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaViolation:
    """What ran out: travels as google.rpc.QuotaFailure.Violation."""

    subject: str
    """What is limited, e.g. `node:memory`."""
    description: str
    """Asked and free, in words."""


class BeemeshError(Exception):
    """Base of all domain errors; `str(error)` says what, which id, what was expected, what to do."""

    code: Code = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        quota: Sequence[QuotaViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        """`reason` is ErrorInfo's UPPER_SNAKE_CASE reason; `retry_after` is in seconds."""
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.quota = tuple(quota)
        self.retry_after = retry_after
        self.trace = ""
        """Where it happened, in a user's own code; travels as google.rpc.DebugInfo."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.name} {self.reason}: {self.message})"


class Cancelled(BeemeshError):
    """The caller went away."""

    code = Code.CANCELLED


class Unknown(BeemeshError):
    """The outcome is not known: the work may or may not have been done."""

    code = Code.UNKNOWN


class InvalidArgument(BeemeshError):
    """The request itself is wrong; nothing was touched."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(BeemeshError):
    """Time ran out; the outcome is not known."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(BeemeshError):
    """It is not there, and who knows has said so."""

    code = Code.NOT_FOUND


class AlreadyExists(BeemeshError):
    """Something else has this name."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(BeemeshError):
    """The caller is known and may not."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(BeemeshError):
    """No room: memory, CPU, disk, a queue or a size limit."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(BeemeshError):
    """The request is right, the state it needs is not there; repeating it does not help until that changes."""

    code = Code.FAILED_PRECONDITION


class Aborted(BeemeshError):
    """Another operation was first; read again and retry."""

    code = Code.ABORTED


class OutOfRange(BeemeshError):
    """A watch cannot resume from there; start it anew."""

    code = Code.OUT_OF_RANGE


class Unimplemented(BeemeshError):
    """This verb is not finished, or this engine does not have it."""

    code = Code.UNIMPLEMENTED


class Internal(BeemeshError):
    """A defect of ours."""

    code = Code.INTERNAL


class Unavailable(BeemeshError):
    """What is needed cannot be reached now; retry later."""

    code = Code.UNAVAILABLE


class DataLoss(BeemeshError):
    """What was stored cannot be read back."""

    code = Code.DATA_LOSS


class Unauthenticated(BeemeshError):
    """No identity, or a wrong token."""

    code = Code.UNAUTHENTICATED


BY_CODE: Mapping[Code, type[BeemeshError]] = {cls.code: cls for cls in BeemeshError.__subclasses__()}
