"""Image references in full."""

from __future__ import annotations

import pytest

from services.engines.pods.images import full_reference, pull_policy

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("grafana/loki:2", "docker.io/grafana/loki:2"),
        ("localhost/mine", "localhost/mine:latest"),
        ("localhost/mine:1", "localhost/mine:1"),
        ("localhost:5000/mine", "localhost:5000/mine:latest"),
        ("ghcr.io/org/team/app:v1.2", "ghcr.io/org/team/app:v1.2"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"quay.io/a/b:1@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
    ],
)
def test_every_reference_is_written_in_full(written: str, meant: str) -> None:
    """A bare name means docker.io/library, no tag means latest, and what is full stays."""
    assert full_reference(written) == meant
    assert full_reference(meant) == meant


@pytest.mark.parametrize(
    "written", ["", "Upper", "a b", "a:", "ghcr.io/", "x@sha256:12", "a//b", "-x", "a:b:c", "x" * 300]
)
def test_what_is_no_reference_is_refused(written: str) -> None:
    """What no registry could serve is refused with an example of what could be meant."""
    with pytest.raises(ValueError, match="is not an image reference"):
        full_reference(written)


@pytest.mark.parametrize(
    ("reference", "asked", "policy"),
    [
        ("docker.io/library/a:latest", "", "newer"),
        ("docker.io/library/a:1", "", "missing"),
        (f"docker.io/library/a@{DIGEST}", "", "missing"),
        ("docker.io/library/a:1", "Always", "always"),
        ("docker.io/library/a:latest", "IfNotPresent", "missing"),
        ("docker.io/library/a:latest", "Never", "never"),
    ],
)
def test_when_to_pull(reference: str, asked: str, policy: str) -> None:
    """The manifest's policy counts; without one `latest` is looked up anew and a fixed tag is not."""
    assert pull_policy(reference, asked) == policy
