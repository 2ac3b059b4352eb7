"""What podman makes of Compose files otherwise than docker, and what is done about it."""

from __future__ import annotations

from typing import Any

import pytest

from services.engines.compose.fields import NodePolicy, check
from services.engines.podman.ability import Ability
from services.engines.podman.checks import check_of
from services.engines.podman.compose_rules import LABEL_RESTART, RULES, Adjustment, lacking, orders_of, restart_of
from services.engines.podman.projects import sighting
from services.engines.podman.translator import mended
from services.engines.restarts import Policy
from services.manifests import parse

STARTED = "2026-01-02T03:04:05.5Z"


def refused(line: str, *, more: str = "") -> list[str]:
    """The fields that are refused of a service with this line."""
    body = parse(f"services:\n  web:\n    image: x\n    {line}\n{more}").primary.body
    return [".".join(map(str, finding.path)) for finding in check(body, NodePolicy(), (), RULES)]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("domainname: example.org", "services.web.domainname"),
        ("dns: [1.1.1.1]", "services.web.dns"),
        ("links: [db]", "services.web.links"),
        ("annotations: {a: b}", "services.web.annotations"),
        ("extra_hosts: ['h:host-gateway']", "services.web.extra_hosts.0"),
        ("extra_hosts: {h: host-gateway}", "services.web.extra_hosts.h"),
        ("networks: {default: {priority: 1}}", "services.web.networks.default.priority"),
        ("networks: {default: {link_local_ips: [169.254.1.1]}}", "services.web.networks.default.link_local_ips"),
        (
            "volumes: [{type: volume, source: d, target: /d, volume: {subpath: a}}]",
            "services.web.volumes.0.volume.subpath",
        ),
        ("volumes: [{type: volume, target: /d, volume: {nocopy: true}}]", "services.web.volumes.0.volume.nocopy"),
    ],
)
def test_what_podman_drops_is_refused(line: str, path: str) -> None:
    """By its path."""
    assert refused(line) == [path]


def test_what_podman_keeps_is_not_refused() -> None:
    """Aliases, addresses, hosts with an address, volumes; and binds are still guarded."""
    assert refused("networks: {default: {aliases: [a], ipv4_address: 10.1.2.3}}") == []
    assert refused("extra_hosts: ['h:1.2.3.4']") == []
    assert refused("volumes: ['data:/d', {type: tmpfs, target: /t, tmpfs: {size: 1}}]") == []
    assert refused("volumes: ['/etc:/etc']") == ["services.web.volumes.0"]
    assert refused("cpus: 1", more="networks: {default: {ipam: {config: [{aux_addresses: {a: 10.1.2.3}}]}}}\n") == [
        "networks.default.ipam.config.0.aux_addresses"
    ]


@pytest.mark.parametrize(
    ("service", "restart", "policy", "attempts"),
    [
        ({}, "", Policy.NEVER, None),
        ({"restart": "no"}, "", Policy.NEVER, None),
        ({"restart": "unless-stopped"}, "always", Policy.ALWAYS, None),
        ({"restart": "on-failure:3"}, "on-failure:3", Policy.ON_FAILURE, 3),
        ({"restart": "on-failure"}, "on-failure", Policy.ON_FAILURE, None),
        ({"restart": "no", "deploy": {"restart_policy": {}}}, "always", Policy.ALWAYS, None),
        ({"deploy": {"restart_policy": {"condition": "none"}}}, "", Policy.NEVER, None),
        (
            {"deploy": {"restart_policy": {"condition": "on-failure", "max_attempts": 2}}},
            "on-failure:2",
            Policy.ON_FAILURE,
            2,
        ),
    ],
)
def test_a_restart_policy_is_ours_to_keep(
    service: dict[str, Any], restart: str, policy: Policy, attempts: int | None
) -> None:
    """What Compose would tell the daemon stands in a label, and podman is told never to."""
    assert restart_of(service) == restart
    (made,) = Adjustment().of({"services": {"web": {"image": "busybox", **service}}})["services"].values()
    assert (made["restart"], made["image"], made["logging"]["driver"]) == (
        "no",
        "docker.io/library/busybox:latest",
        "json-file",
    )
    assert "restart_policy" not in (made.get("deploy") or {})
    assert orders_of(made.get("labels") or {}) == (policy, attempts)


def test_a_limit_of_its_own_brings_the_others() -> None:
    """Where podman could not set its own; a service without any has podman's defaults."""
    model = {"services": {"a": {"ulimits": {"nofile": 9}}, "b": {}}}
    made = Adjustment(ulimits={"nofile": 4096, "nproc": 4096}).of(model)["services"]
    assert (made["a"]["ulimits"], "ulimits" in made["b"]) == ({"nofile": 9, "nproc": 4096}, False)


def test_a_rootless_podman_says_what_it_cannot() -> None:
    """Limits without cgroups, and low ports."""
    body = parse(
        "services:\n  web: {image: x, mem_limit: 1m, cpus: 1, deploy: {resources: {limits: {memory: 1M}}},\n"
        "        ports: ['80:80', '127.0.0.1:443:443/tcp', '8080:80', '80', {target: 80, published: '81'}]}\n"
    ).primary.body
    cannot = Ability(rootless=True, cpu=False, memory=False, lowest_port=1024)
    assert {".".join(map(str, finding.path[2:])) for finding in lacking(body, cannot)} == {
        "mem_limit",
        "cpus",
        "deploy.resources.limits.memory",
        "ports.0",
        "ports.1",
        "ports.4",
    }
    assert list(lacking(body, Ability(rootless=True))) == []


def test_the_list_of_containers_is_mended() -> None:
    """Ids of networks for their names, and the mounts; all else stays."""
    listed = {
        "Id": "c",
        "State": "running",
        "Mounts": [],
        "NetworkSettings": {"Networks": {"n_default": {"NetworkID": "n_default", "Aliases": ["web"]}}},
    }
    found = mended(listed, {"n_default": "1234"}, [{"Type": "volume", "Name": "v"}])
    assert found == {
        **listed,
        "Mounts": [{"Type": "volume", "Name": "v"}],
        "NetworkSettings": {"Networks": {"n_default": {"NetworkID": "1234", "Aliases": ["web"]}}},
    }
    assert mended(found, {"n_default": "1234"}, [])["NetworkSettings"] == found["NetworkSettings"]


def container(health: dict[str, Any] | None = None, **state: Any) -> dict[str, Any]:
    """As podman inspects it."""
    return {
        "Id": "c",
        "State": {"Status": "running", "StartedAt": STARTED, "Health": health or {}, **state},
        "Config": {
            "Healthcheck": {"Test": ["CMD", "ls", "/ready"], "Interval": 2 * 10**9, "Timeout": 0},
            "Labels": {LABEL_RESTART: "on-failure:2", "beemesh.io/workload-id": "w"},
        },
    }


def test_a_check_goes_on_where_it_was() -> None:
    """Due since the last one, or since the start; with docker's times where none are given."""
    first, later = check_of(container()), check_of(container({"Log": [{"Start": "2026-01-02T03:05:05Z"}]}))
    assert first is not None
    assert later is not None
    assert (first.interval, first.timeout, first.command, later.last - first.last) == (2.0, 30.0, "/ready", 59.5)


@pytest.mark.parametrize("test", [None, [], ["NONE"]])
def test_who_has_no_check_is_not_checked(test: list[str] | None) -> None:
    """Nor who does not run."""
    without = container()
    without["Config"]["Healthcheck"] = {"Test": test}
    assert check_of(without) is None
    assert check_of(container(Status="exited")) is None


def test_an_end_is_seen_with_its_orders() -> None:
    """Its policy is read from its label."""
    seen = sighting(container(Status="exited", ExitCode=3, FinishedAt="2026-01-02T03:04:06.5Z"))
    assert seen.exit is not None
    assert (seen.exit.exit_code, seen.exit.finish_time - seen.started_at, seen.running) == (3, 1.0, False)
    assert (seen.workload_id, seen.orders.policy, seen.orders.attempts) == ("w", Policy.ON_FAILURE, 2)
