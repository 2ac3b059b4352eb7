"""HTTP requests as events, and results as HTTP responses, in the shape that function platforms have in common. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from services.errors import BeemeshError, Code

Headers = Sequence[tuple[bytes, bytes]]

_STATUS: Mapping[Code, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.NOT_FOUND: 404,
    Code.FAILED_PRECONDITION: 503,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.ABORTED: 500,
}
_STATUS_OF_REASON = {"EVENT_TOO_LARGE": 413, "OUT_OF_MEMORY": 500, "RESULT_NOT_JSON": 502, "RESULT_TOO_LARGE": 502}
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "te", "trailer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A whole request."""

    method: str
    target: str
    """As on the request line: path and query."""
    headers: Headers
    body: bytes
    client: str
    """The address of who asks."""

    @property
    def path(self) -> str:
        """Without the query, as it was sent."""
        return self.target.partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response."""

    status: int
    headers: Headers
    body: bytes


class BadResponse(ValueError):
    """The function's result is no response; the text says why."""


def matches(path: str, prefix: str) -> bool:
    """Whether a trigger at `prefix` answers `path`: this one, and what lies below it."""
    base = prefix.rstrip("/")
    return path in (prefix, base) or path.startswith(base + "/")


def event_of(request: Request, *, path: str) -> bytes:
    """The request as an event; `path` is the trigger's."""
    query = parse_qsl(request.target.partition("?")[2], keep_blank_values=True)
    headers = _grouped([(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in request.headers])
    text, is_base64 = _body(request.body)
    event = {
        "version": "1.0",
        "httpMethod": request.method,
        "path": unquote(request.path),
        "rawPath": request.path,
        "resource": path,
        "headers": {name: ", ".join(values) for name, values in headers.items()},
        "multiValueHeaders": headers,
        "rawQueryString": request.target.partition("?")[2],
        "queryStringParameters": dict(query),
        "multiValueQueryStringParameters": _grouped(query),
        "body": text,
        "isBase64Encoded": is_base64,
        "requestContext": {"http": {"method": request.method, "path": request.path, "sourceIp": request.client}},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def response_of(result: bytes) -> Response:
    """A mapping with statusCode as it says; anything else is the body of a 200, as JSON. Raises BadResponse."""
    data = json.loads(result)
    if not isinstance(data, dict) or "statusCode" not in data:
        return Response(status=200, headers=[(b"content-type", b"application/json")], body=result)
    status = data["statusCode"]
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise BadResponse(f"statusCode {status!r} is none from 200 to 599")
    body = _response_body(data)
    headers = [*_response_headers(data)]
    if body and not any(name == b"content-type" for name, _ in headers):
        kind = b"application/json" if isinstance(data.get("body"), dict | list) else b"text/plain; charset=utf-8"
        headers.append((b"content-type", kind))
    return Response(status=status, headers=headers, body=body)


def response_of_error(error: BeemeshError) -> Response:
    """Code, reason and message; the traceback is in the log, not for who calls over HTTP."""
    status = _STATUS_OF_REASON.get(error.reason, _STATUS.get(error.code, 500))
    told = {"code": error.code.name, "reason": error.reason, "message": error.message}
    if "invocation_id" in error.metadata:
        told["invocationId"] = error.metadata["invocation_id"]
    headers = [(b"content-type", b"application/json")]
    if status in (429, 503):
        headers.append((b"retry-after", b"1"))
    return Response(status=status, headers=headers, body=json.dumps({"error": told}).encode())


def refusal(status: int, reason: str, message: str) -> Response:
    """What is refused before the function is called."""
    told = {"reason": reason, "message": message}
    return Response(
        status=status,
        headers=[(b"content-type", b"application/json")],
        body=json.dumps({"error": told}).encode(),
    )


def _body(body: bytes) -> tuple[str | None, bool]:
    """As text where it is text, else as base64; None where there is none."""
    if not body:
        return None, False
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True


def _response_body(data: Mapping[str, Any]) -> bytes:
    body = data.get("body")
    if data.get("isBase64Encoded"):
        try:
            return base64.b64decode(body or "", validate=True)
        except (ValueError, TypeError):
            raise BadResponse("isBase64Encoded is set and body is no base64") from None
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode(errors="replace")
    if isinstance(body, dict | list):
        return json.dumps(body).encode()
    raise BadResponse(f"body is text, a mapping or a list, not {type(body).__name__}")


def _response_headers(data: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    merged: list[tuple[bytes, bytes]] = []
    for field in ("headers", "multiValueHeaders"):
        given = data.get(field) or {}
        if not isinstance(given, dict):
            raise BadResponse(f"{field} is a mapping, not {type(given).__name__}")
        for name, value in given.items():
            if name.lower() in _HOP_BY_HOP:
                continue  # ours to say
            items = value if isinstance(value, list) else [value]
            merged += [(_ascii(name).lower(), _ascii(_text(item))) for item in items]
    return merged


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise BadResponse(f"a header's value is text or a number, not {type(value).__name__}")


def _ascii(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError:
        raise BadResponse("headers are ASCII") from None


def _grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped
