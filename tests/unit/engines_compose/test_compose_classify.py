"""What Compose says becomes an error with a reason, and words on how far it is."""

from __future__ import annotations

import json

import pytest

from services.engines.compose.classify import Said, bad_file, failure, full_reference
from services.errors import BeemeshError, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, Unavailable
from services.manifests import parse

DAEMON = "Error response from daemon: "
CASES: dict[str, tuple[str, type[BeemeshError], str]] = {
    "a port": (
        DAEMON + "driver failed: Bind for 127.0.0.1:38481 failed: port is already allocated",
        FailedPrecondition,
        "PORT_IN_USE",
    ),
    "a port of another's": (
        DAEMON + "Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: address already in use",
        FailedPrecondition,
        "PORT_IN_USE",
    ),
    "no image": (DAEMON + "No such image: example:1", FailedPrecondition, "IMAGE_NOT_FOUND"),
    "an unknown tag": (
        DAEMON + "manifest for localhost:5000/a:9 not found: manifest unknown: manifest unknown",
        FailedPrecondition,
        "IMAGE_NOT_FOUND",
    ),
    "no login": (
        DAEMON + "Head http://localhost:5000/v2/a/manifests/1: no basic auth credentials",
        FailedPrecondition,
        "IMAGE_DENIED",
    ),
    "no registry": (
        DAEMON + 'Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused',
        Unavailable,
        "REGISTRY_UNREACHABLE",
    ),
    "no docker": (
        "failed to connect: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
        Unavailable,
        "BACKEND_UNREACHABLE",
    ),
    "a docker that hangs up": (
        'error during connect: Post "http://%2Fx.sock/v1.41/containers/create": EOF',
        Unavailable,
        "BACKEND_UNREACHABLE",
    ),
    "an interface that went": (
        "failed to create network a_default: " + DAEMON + "route ip+net: no such network interface",
        Unavailable,
        "BACKEND_UNREACHABLE",
    ),
    "an answer that is cut": ("unexpected EOF", Unavailable, "BACKEND_UNREACHABLE"),
    "no program": (
        DAEMON + 'OCI runtime create failed: exec: "nope": executable file not found in $PATH: unknown',
        FailedPrecondition,
        "START_FAILED",
    ),
    "a sick dependency": (
        "dependency failed to start: container bm-y-db-1 is unhealthy",
        FailedPrecondition,
        "DEPENDENCY_FAILED",
    ),
    "too little memory": (
        DAEMON + "Minimum memory limit allowed is 6MB",
        ResourceExhausted,
        "MEMORY_LIMIT_TOO_LOW",
    ),
    "a value that docker does not take": (
        DAEMON + "invalid restart policy 'sometimes'",
        InvalidArgument,
        "MANIFEST_INVALID",
    ),
    "an image that is none": (
        "unable to get image 'Bad Name': no such image: Bad Name: invalid reference format",
        InvalidArgument,
        "MANIFEST_INVALID",
    ),
    "no disk": (DAEMON + "write /x: no space left on device", ResourceExhausted, "DISK_FULL"),
    "anything else": (DAEMON + "something new", Internal, "BACKEND_ERROR"),
}


def said(*lines: str) -> Said:
    """What Compose has said."""
    heard = Said()
    for line in lines:
        heard.take(line)
    return heard


@pytest.mark.parametrize("name", CASES)
def test_a_failure_has_a_reason(name: str) -> None:
    """And the backend's own words."""
    text, kind, reason = CASES[name]
    error = failure(said(json.dumps({"error": True, "message": text})), what="shop")
    assert (type(error), error.reason) == (kind, reason)
    assert text[:60] in error.message


def test_a_port_and_an_image_are_named() -> None:
    """As facts beside the text; the image in full."""
    port = failure(said('{"error":true,"message":"Bind for 0.0.0.0:80 failed: port is already allocated"}'), what="x")
    assert port.metadata == {"host_ip": "0.0.0.0", "host_port": "80"}
    image = failure(
        said(
            '{"id":"Image web:1","status":"Error","text":"Error","details":"x"}',
            '{"error":true,"message":"pull access denied for web"}',
        ),
        what="x",
    )
    assert (image.reason, image.metadata) == ("IMAGE_DENIED", {"image": "docker.io/library/web:1"})


def test_progress_is_told_in_words() -> None:
    """What it does with which object; of an image how much is here; nothing for what is no progress."""
    heard = Said()
    assert heard.take('{"id":"Container bm-x-web-1","status":"Working","text":"Starting"}') == (
        "starting container bm-x-web-1"
    )
    pulling = '{"id":"Image a:1","status":"Working","text":"Pulling","current":1500000,"total":3000000}'
    assert heard.take(pulling) == "pulling image a:1: 1.5 of 3.0 MB"
    assert [heard.take(line) for line in ('{"level":"warning","msg":"x"}', "plain", "", "{broken")] == [""] * 4


def test_a_file_that_compose_refuses_is_told_with_its_line() -> None:
    """Where it names a field that the file has; else as a whole."""
    document = parse("services:\n  web:\n    image: a\n    ports:\n    - x:y:z:a\n").primary
    error = bad_file("validating -: services.web.ports[0] invalid", document)
    (found,) = error.violations
    assert (found.field_path, found.line) == ("services.web.ports[0]", 5)
    by_name = bad_file('service "web" depends on undefined service "db": invalid compose project', document)
    assert (by_name.violations[0].field_path, by_name.violations[0].line) == ("services.web", 3)
    by_steps = bad_file("'services[web].image' invalid", document)
    assert (by_steps.violations[0].field_path, by_steps.violations[0].line) == ("services.web.image", 3)
    assert bad_file("nothing known", document).violations[0].line == 0


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("org/app:2", "docker.io/org/app:2"),
        ("docker.io/app", "docker.io/library/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("ghcr.io/a/b@sha256:00", "ghcr.io/a/b@sha256:00"),
    ],
)
def test_an_image_is_named_in_full(given: str, full: str) -> None:
    """A bare name means Docker Hub."""
    assert full_reference(given) == full
