"""What goes wrong with a function, as the errors of the contract. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from services.errors import (
    Aborted,
    BeemeshError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)

Facts = Mapping[str, Any]

_MESSAGE_MAX = 1000


def of_guest(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    """The error for a problem that a worker told of; `metadata` says which workload and invocation."""
    make = _KINDS.get(str(facts.get("kind")), _trapped)
    error = make(facts, {**metadata, **_told(facts)})
    error.trace = str(facts.get("trace") or "")
    return error


def _raised(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return Aborted(f"the handler raised {_line(facts)}", reason="FUNCTION_ERROR", metadata=metadata)


def _trapped(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return Aborted(f"the function trapped: {_line(facts)}", reason="FUNCTION_TRAPPED", metadata=metadata)


def _result(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return Aborted(_text(facts), reason="RESULT_NOT_JSON", metadata=metadata)


def _size(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return Aborted(_text(facts), reason="RESULT_TOO_LARGE", metadata=metadata)


def _memory(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return ResourceExhausted(
        "the function ran out of memory; raise spec.memory", reason="OUT_OF_MEMORY", metadata=metadata
    )


def _event(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return InvalidArgument(_text(facts), reason="EVENT_NOT_JSON", metadata=metadata)


def _handler(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return FailedPrecondition(
        f"spec.handler cannot be called: {_text(facts)}", reason="HANDLER_NOT_FOUND", metadata=metadata
    )


def _syntax(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return FailedPrecondition(
        f"the code is not {facts.get('language', 'Python')}: {_text(facts)}", reason="CODE_INVALID", metadata=metadata
    )


def _load(facts: Facts, metadata: Mapping[str, str]) -> BeemeshError:
    return FailedPrecondition(
        f"the code cannot be loaded: {_line(facts)}", reason="FUNCTION_LOAD_FAILED", metadata=metadata
    )


_KINDS: Mapping[str, Callable[[Facts, Mapping[str, str]], BeemeshError]] = {
    "raised": _raised,
    "trap": _trapped,
    "result": _result,
    "size": _size,
    "memory": _memory,
    "event": _event,
    "handler": _handler,
    "syntax": _syntax,
    "load": _load,
}


def timed_out(seconds: float, metadata: Mapping[str, str]) -> DeadlineExceeded:
    """The handler did not return in time, and was ended."""
    return DeadlineExceeded(
        f"the function did not return within {seconds:g}s and was ended", reason="FUNCTION_TIMEOUT", metadata=metadata
    )


def load_timed_out(seconds: float, metadata: Mapping[str, str]) -> FailedPrecondition:
    """Loading the code did not end."""
    return FailedPrecondition(
        f"loading the code took more than {seconds:g}s: what runs at import must be quick",
        reason="FUNCTION_LOAD_FAILED",
        metadata=metadata,
    )


def worker_lost(metadata: Mapping[str, str]) -> Unavailable:
    """The process that the call ran in has ended; whether the handler has finished is not known."""
    return Unavailable(
        "the worker process of this call was killed; only its call is lost, and may have been carried out",
        reason="WORKER_LOST",
        metadata=metadata,
        retry_after=0.1,
    )


def stopped(workload_id: str) -> FailedPrecondition:
    """It is stopped, or being removed."""
    return FailedPrecondition(
        f"function {workload_id} is stopped; start it first",
        reason="WORKLOAD_NOT_RUNNING",
        metadata={"workload_id": workload_id},
    )


def _told(facts: Facts) -> dict[str, str]:
    """What is known of it, for programs."""
    told = {key: str(facts[key]) for key in ("file", "line") if facts.get(key)}
    return {**told, "error_type": str(facts["type"])} if facts.get("type") else told


def _text(facts: Facts) -> str:
    return str(facts.get("message") or "")[:_MESSAGE_MAX]


def _line(facts: Facts) -> str:
    kind, text = str(facts.get("type") or ""), _text(facts)
    return f"{kind}: {text}" if kind and text else kind or text
