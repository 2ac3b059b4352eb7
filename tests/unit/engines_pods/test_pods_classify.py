"""From podman's words, as 4.3.1 and later versions say them, to domain errors."""

from __future__ import annotations

import pytest

from services.engines.pods.classify import image_absent, pull_error, start_error
from services.engines.unix_http import shorten
from services.errors import AlreadyExists, BeemeshError, FailedPrecondition, Internal, ResourceExhausted

ID = "3b861056417fbaf598f8d79838508dce73c8309746d832486496dc10de96268b"
FOLLOW_UP = f"starting container {ID}: a dependency of container {ID} failed to start: container state improper"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            "cannot listen on the TCP port: listen tcp4 :18099: bind: address already in use",
            FailedPrecondition,
            "PORT_IN_USE",
        ),
        ("rootlessport listen tcp 0.0.0.0:80: bind: address already in use", FailedPrecondition, "PORT_IN_USE"),
        (
            "cannot listen on the TCP port: listen tcp4 10.250.0.1:80: bind: cannot assign requested address",
            FailedPrecondition,
            "HOST_IP_NOT_FOUND",
        ),
        ("playing YAML file: localhost/zz:1: image not known", FailedPrecondition, "IMAGE_NOT_FOUND"),
        (
            'runc: runc create failed: unable to start container process: exec: "sh": executable file not found in '
            "$PATH: OCI runtime attempted to invoke a command that was not found",
            FailedPrecondition,
            "START_FAILED",
        ),
        ("crun: open executable: Permission denied: OCI permission denied", FailedPrecondition, "START_FAILED"),
        (f'workdir "/nope/x" does not exist on container {ID}', FailedPrecondition, "START_FAILED"),
        (
            "error setting cgroup config for procHooks process: unable to set memory limit to 4096 (current usage: "
            "2490368, peak usage: 2916352): OCI runtime error",
            ResourceExhausted,
            "MEMORY_LIMIT_TOO_LOW",
        ),
        ("write /var/lib/containers/x: no space left on device", ResourceExhausted, "DISK_FULL"),
        ("fork/exec /usr/bin/conmon: resource temporarily unavailable", ResourceExhausted, "RESOURCE_EXHAUSTED"),
        ('adding pod to state: name "bmx-0" is in use: pod already exists', AlreadyExists, "NAME_IN_USE"),
        ("netavark: No such file or directory (os error 2)", Internal, "BACKEND_ERROR"),
        ("unable to find network with name or ID nonesuch: network not found", Internal, "BACKEND_ERROR"),
    ],
)
def test_a_failed_start_is_told_as_what_it_is(text: str, kind: type[BeemeshError], reason: str) -> None:
    """Each of podman's texts becomes the error that it means, with podman's words in it."""
    error = start_error([text, FOLLOW_UP], workload_id="w", backend="podman")
    assert (type(error), error.reason) == (kind, reason)
    assert text.replace(ID, ID[:12])[:40] in error.message
    assert error.metadata["workload_id"] == "w"


def test_the_telling_text_of_several_counts() -> None:
    """Of several texts, a known one is told before unknown ones, and follow-ups only when alone."""
    known = "listen tcp4 127.0.0.1:8080: bind: address already in use"
    error = start_error([FOLLOW_UP, "something odd", known], workload_id="w", backend="podman")
    assert error.reason == "PORT_IN_USE"
    assert error.metadata == {"workload_id": "w", "host_port": "8080", "host_ip": "127.0.0.1", "protocol": "TCP"}
    assert "dependency" in start_error([FOLLOW_UP], workload_id="w", backend="podman").message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("reading manifest 9 in docker.io/library/busybox: manifest unknown: manifest unknown", "IMAGE_NOT_FOUND"),
        ("reading manifest 1 in quay.io/a/b: name unknown: repository not found", "IMAGE_NOT_FOUND"),
        ("initializing source docker://x:1: reading manifest 1 in r/x: StatusCode: 404, not found", "IMAGE_NOT_FOUND"),
        ("unauthorized: access to the requested resource is not authorized", "IMAGE_DENIED"),
        ("requested access to the resource is denied", "IMAGE_DENIED"),
        ("unable to retrieve auth token: invalid username/password: unauthorized: incorrect", "IMAGE_DENIED"),
    ],
)
def test_a_failed_pull_names_the_image(text: str, reason: str) -> None:
    """A registry's refusal is IMAGE_NOT_FOUND or IMAGE_DENIED with the full reference, and no retry is suggested."""
    error = pull_error(text, image="docker.io/library/x:1", backend="podman")
    assert (type(error), error.reason) == (FailedPrecondition, reason)
    assert error.metadata == {"image": "docker.io/library/x:1"}
    assert "docker.io/library/x:1" in error.message
    assert error.retry_after is None


@pytest.mark.parametrize(
    "text",
    [
        'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io on 10.0.0.1:53: no such host',
        'pinging container registry l: Get "https://l/v2/": dial tcp 127.0.0.1:443: connect: connection refused',
        'Get "https://r.io/v2/": net/http: TLS handshake timeout',
        "toomanyrequests: You have reached your pull rate limit",
        'Get "https://r.io/v2/": x509: certificate signed by unknown authority',
    ],
)
def test_an_unreachable_registry_may_be_retried(text: str) -> None:
    """A registry that cannot be asked is IMAGE_NOT_FOUND too, says so, and names a delay."""
    error = pull_error(text, image="i", backend="podman")
    assert error.reason == "IMAGE_NOT_FOUND"
    assert error.metadata == {"image": "i", "registry": "unreachable"}
    assert error.retry_after
    assert text in error.message


def test_a_full_disk_is_no_missing_image() -> None:
    """A pull that fills the disk is RESOURCE_EXHAUSTED."""
    assert type(pull_error("writing blob: no space left on device", image="i", backend="podman")) is ResourceExhausted
    assert type(pull_error("something new", image="i", backend="podman")) is Internal
    assert image_absent("i").metadata == {"image": "i"}


def test_ids_are_cut_to_what_people_read() -> None:
    """Ids of 64 digits are cut to 12, other words stay."""
    assert shorten(f"starting container {ID}: no") == f"starting container {ID[:12]}: no"
