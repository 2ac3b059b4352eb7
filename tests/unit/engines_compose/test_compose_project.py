"""What Compose is given to read, and what is put on the project that it resolves."""

from __future__ import annotations

import json

import pytest

from services.engines.compose import source
from services.engines.compose.fields import NodePolicy, check
from services.engines.compose.limits import limits
from services.engines.compose.stamp import Hashes, LogCap, Stamp
from services.engines.engine import Config, Resources
from services.identity import Ownership
from services.manifests import parse

OWNERSHIP = Ownership(node_id="a" * 40, deployment_id="shop", workload_id="beemesh-shop-1", manifest_hash="f" * 64)
HASH = "f" * 16


def test_compose_reads_what_we_have_read() -> None:
    """Anchors are followed, words stay words, a file mode stays octal; what is not for Compose is left out."""
    text = """\
version: 3.8
name: shop
x-common: &c {restart: always}
services:
  web:
    <<: *c
    image: example:1
    environment: {COUNTRY: no, N: 10, NOTHING: }
    ports: [22:22]
    configs: [{source: a, mode: 0440}]
configs: {a: {content: x}}
"""
    assert json.loads(source.written(parse(text).primary, [])) == {
        "services": {
            "web": {
                "restart": "always",
                "image": "example:1",
                "environment": {"COUNTRY": "no", "N": 10, "NOTHING": None},
                "ports": ["22:22"],
                "configs": [{"source": "a", "mode": "0440"}],
            }
        },
        "configs": {"a": {"content": "x"}},
    }


def test_what_is_not_honoured_never_reaches_compose() -> None:
    """A caller who accepts losses loses the field, whatever it would have done."""
    document = parse("services:\n  web:\n    image: example:1\n    build: .\n    new: {a: 1}\n").primary
    text = source.written(document, check(document.body, NodePolicy(), ()))
    assert json.loads(text) == {"services": {"web": {"image": "example:1"}}}


def test_variables_that_steer_programs_are_not_given_to_compose() -> None:
    """Nor may a file refer to them; what it writes as text is no reference."""
    env = {
        "TAG": "1",
        "PATH": "/x",
        "LD_PRELOAD": "/x",
        "DOCKER_HOST": "tcp://x",
        "COMPOSE_FILE": "/x",
        "no_proxy": "x",
    }
    assert source.variables(env) == {"TAG": "1"}
    assert source.steering(env, "${TAG} ${PATH:-x} $LD_PRELOAD $$DOCKER_HOST ${COMPOSE_FILES}") == [
        "PATH",
        "LD_PRELOAD",
    ]


def test_names_that_compose_has_made_are_nobodys() -> None:
    """Only a name of another kind is seen as given."""
    model = {
        "name": "bm-x",
        "networks": {"default": {"name": "bm-x_default"}, "n": {"name": "theirs"}},
        "volumes": {"data": {"name": "bm-x_data"}},
    }
    plain = source.own_names(model, "bm-x")
    assert plain == {"networks": {"default": {}, "n": {"name": "theirs"}}, "volumes": {"data": {}}}


def stamped(service: dict[str, object], config: Config | None = None, **fields: object) -> dict[str, object]:
    """A service with the stamp on it."""
    stamp = Stamp(ownership=OWNERSHIP, config=config or Config(), log_cap=LogCap(max_size="1m", max_files=2))
    made: dict[str, object] = stamp.on({"services": {"web": service}, **fields})["services"]["web"]
    return made


def test_everything_carries_its_owner() -> None:
    """Services, networks and volumes; what is there keeps the hash that it was made with."""
    there = Hashes(services={"old": "1" * 16}, networks={"n": "2" * 16}, volumes={"v": "3" * 16})
    model = {
        "services": {"web": {"labels": {"mine": "x"}}, "old": {}},
        "networks": {"default": {"name": "x", "ipam": {}}, "n": None},
        "volumes": {"v": {"name": "y"}},
    }
    made = Stamp(ownership=OWNERSHIP, there=there).on(model)
    labels = {**OWNERSHIP.labels(), "beemesh.io/manifest-hash": HASH}
    assert made["services"]["web"]["labels"] == {"mine": "x", **labels}
    assert made["services"]["old"]["labels"] == {**labels, "beemesh.io/manifest-hash": "1" * 16}
    assert made["networks"]["default"] == {"name": "x", "ipam": {}, "labels": labels}
    assert made["networks"]["n"]["labels"] == {**labels, "beemesh.io/manifest-hash": "2" * 16}
    assert made["volumes"]["v"]["labels"] == {**labels, "beemesh.io/manifest-hash": "3" * 16}


def test_the_config_counts_for_every_service() -> None:
    """Variables, labels and replicas; a dollar of theirs is one; what has no value is not set."""
    config = Config(env={"A": "$x", "B": "2"}, labels={"team": "$y", "beemesh.io/node-id": "theirs"}, replicas=3)
    given = {"environment": {"A": "1", "C": None, "D": "$$z"}, "deploy": {"replicas": 2, "placement": {}}}
    made = stamped(given, config)
    assert made["environment"] == {"A": "$$x", "B": "2", "D": "$$z"}
    labels = made["labels"]
    assert isinstance(labels, dict)
    assert (labels["team"], labels["beemesh.io/node-id"]) == ("$$y", "a" * 40)
    assert (made["scale"], "deploy" in made) == (3, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"driver": "json-file", "options": {"max-size": "1m", "max-file": "2"}}),
        (
            {"logging": {"driver": "local", "options": {"max-size": "9m"}}},
            {"driver": "local", "options": {"max-size": "9m", "max-file": "2"}},
        ),
        ({"logging": {"driver": "none"}}, {"driver": "none"}),
    ],
)
def test_logs_are_capped_unless_the_file_says_how(given: dict[str, object], expected: dict[str, object]) -> None:
    """By the options of docker's own drivers."""
    assert stamped(given)["logging"] == expected


@pytest.mark.parametrize(
    ("given", "expected"), [("always", "unless-stopped"), ("on-failure:3", "on-failure:3"), ("no", "no")]
)
def test_what_is_stopped_stays_so_over_a_restart_of_docker(given: str, expected: str) -> None:
    """`always` would start it again."""
    assert stamped({"restart": given})["restart"] == expected


def test_images_are_pulled_when_they_are_missing_unless_the_file_says_else() -> None:
    """Compose's own default would depend on the command."""
    assert [stamped({})["pull_policy"], stamped({"pull_policy": "never"})["pull_policy"]] == ["missing", "never"]


def test_ceilings_leave_the_smaller_limit() -> None:
    """Hints and the config's room are shared by what has no limit; copies count."""
    text = (
        "x-beemesh: {annotations: {beemesh.io/resources.memory: 400Mi}}\n"
        "services: {a: {image: x}, b: {image: x}, c: {image: x}}\n"
    )
    model = {
        "services": {
            "a": {"deploy": {"replicas": 2, "resources": {"limits": {"memory": str(100 << 20)}}}},
            "b": {"mem_limit": str(50 << 20)},
            "c": {"cpus": 2},
        }
    }
    found = limits(model, parse(text).primary, Resources(cpu_cores=1.0))
    assert [limit.memory_bytes for limit in found.values()] == [100 << 20, 50 << 20, 150 << 20]
    assert [limit.cpu_cores for limit in found.values()] == [0.25, 0.25, 0.25]
    made = Stamp(ownership=OWNERSHIP, limits=found).on(model)["services"]
    assert made["c"]["deploy"]["resources"]["limits"] == {"cpus": "0.25", "memory": str(150 << 20)}
    assert "cpus" not in made["c"]
    assert "mem_limit" not in made["b"]
