"""HTTP requests become events, and results become responses, as web developers know them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.engines.wasm.http_events import BadResponse, Request, event_of, matches, response_of, response_of_error
from services.errors import Aborted, BeemeshError, DeadlineExceeded, InvalidArgument, ResourceExhausted


def event(target: str = "/", *, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    """The event of a POST."""
    request = Request(method="POST", target=target, headers=headers or [], body=body, client="127.0.0.1")
    return json.loads(event_of(request, path="/"))


def test_an_event_has_method_path_query_headers_and_body() -> None:
    """Repeated headers and parameters are there twice: joined or last, and as lists."""
    told = event(
        "/a%20b/c?x=1&x=2&y=&z=%C3%BC",
        body="ü".encode(),
        headers=[(b"X-One", b"1"), (b"x-one", b"2"), (b"Content-Type", b"text/plain")],
    )
    assert (told["httpMethod"], told["path"], told["rawPath"]) == ("POST", "/a b/c", "/a%20b/c")
    assert told["queryStringParameters"] == {"x": "2", "y": "", "z": "ü"}
    assert told["multiValueQueryStringParameters"]["x"] == ["1", "2"]
    assert told["headers"] == {"x-one": "1, 2", "content-type": "text/plain"}
    assert told["multiValueHeaders"]["x-one"] == ["1", "2"]
    assert (told["body"], told["isBase64Encoded"]) == ("ü", False)
    assert told["requestContext"]["http"]["sourceIp"] == "127.0.0.1"


def test_a_body_that_is_no_text_comes_as_base64() -> None:
    """And none at all is null."""
    assert (event(body=b"\xff\x00")["body"], event(body=b"\xff")["isBase64Encoded"]) == ("/wA=", True)
    assert event()["body"] is None


def respond(result: object) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of a result."""
    response = response_of(json.dumps(result).encode())
    return response.status, dict(response.headers), response.body


def test_a_result_with_a_status_is_the_response() -> None:
    """Status, headers and body, as text, base64 or JSON."""
    assert respond({"statusCode": 201, "headers": {"X-A": "b", "n": 1}, "body": "made"}) == (
        201,
        {b"x-a": b"b", b"n": b"1", b"content-type": b"text/plain; charset=utf-8"},
        b"made",
    )
    assert respond({"statusCode": 200, "isBase64Encoded": True, "body": "/wA="})[2] == b"\xff\x00"
    assert respond({"statusCode": 200, "body": {"a": 1}}) == (200, {b"content-type": b"application/json"}, b'{"a": 1}')
    assert respond({"statusCode": 204}) == (204, {}, b"")
    several = response_of(b'{"statusCode":200,"multiValueHeaders":{"set-cookie":["a=1","b=2"]}}')
    assert several.headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert respond({"statusCode": 200, "headers": {"Transfer-Encoding": "chunked", "Content-Length": "9"}})[1] == {}


@pytest.mark.parametrize("result", [{"a": 1}, [1], "text", None, 3])
def test_any_other_result_is_the_body_of_a_200(result: object) -> None:
    """As JSON."""
    status, headers, body = respond(result)
    assert (status, headers, json.loads(body)) == (200, {b"content-type": b"application/json"}, result)


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": 99},
        {"statusCode": "soon"},
        {"statusCode": True},
        {"statusCode": 101},
        {"statusCode": 200, "body": 5},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": {}}},
        {"statusCode": 200, "headers": {"ü": "b"}},
        {"statusCode": 200, "isBase64Encoded": True, "body": "%"},
    ],
)
def test_a_result_that_is_no_response_is_told_from_one(result: object) -> None:
    """It is the function's fault, and said so."""
    with pytest.raises(BadResponse):
        respond(result)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Aborted("raised", reason="FUNCTION_ERROR"), 500),
        (Aborted("no JSON", reason="RESULT_NOT_JSON"), 502),
        (DeadlineExceeded("slow", reason="FUNCTION_TIMEOUT"), 504),
        (ResourceExhausted("busy", reason="QUEUE_FULL"), 429),
        (ResourceExhausted("memory", reason="OUT_OF_MEMORY"), 500),
        (InvalidArgument("large", reason="EVENT_TOO_LARGE"), 413),
    ],
)
def test_an_error_has_the_status_that_fits(error: BeemeshError, status: int) -> None:
    """And says its reason, but shows no traceback to who calls."""
    error.trace = "secret lines"
    error.metadata["invocation_id"] = "abc"
    response = response_of_error(error)
    assert response.status == status
    assert json.loads(response.body)["error"]["reason"] == error.reason
    assert json.loads(response.body)["error"]["invocationId"] == "abc"
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    ("path", "prefix", "expected"),
    [
        ("/", "/", True),
        ("/a", "/", True),
        ("/hook", "/hook", True),
        ("/hook/a", "/hook", True),
        ("/hook/", "/hook/", True),
        ("/hook", "/hook/", True),
        ("/hooked", "/hook", False),
        ("/", "/hook", False),
    ],
)
def test_a_trigger_answers_its_path_and_what_lies_below(path: str, prefix: str, expected: bool) -> None:
    """And nothing beside it."""
    assert matches(path, prefix) is expected
