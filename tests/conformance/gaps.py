"""What an engine does not do as others do, each with its reason. A gap that starts passing fails the suite."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

GAPS: Mapping[str, Mapping[str, str]] = {
    "podman": {
        "compose/a domain name": "podman has no domain name apart from the host name, and drops it: refused by path",
        "compose/name servers of its own": "podman 4 puts them in the place of its own, which knows the services' "
        "names: refused by path",
        "compose/links": "podman refuses them",
        "compose/the gateway as a host": "podman writes host-gateway into the file of hosts as a word: refused by path",
        "compose/a root that is only read": "podman mounts an empty /tmp, /run and /var/tmp over it, to be written to",
    },
}
"""By engine, then by test or workload."""


def known(engine: str, name: str) -> list[pytest.MarkDecorator]:
    """The marks of a test on an engine: where it is a gap, it must fail."""
    reason = GAPS.get(engine, {}).get(name)
    return [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
