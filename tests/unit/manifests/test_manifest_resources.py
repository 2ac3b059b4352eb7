"""The room a manifest asks for is the sum over its replicas, hints included."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.manifests import parse
from services.manifests.resources import Limits, Requested, check_size, container_limits, requested, scaled_to_zero
from tests.unit.manifests.samples import COMPOSE, CONFIG_MAP, DEPLOYMENT, FUNCTION, MACHINE, POD, the_violation

MI = 2**20
GI = 2**30


def pod(containers: str, *, annotations: str = "{}", inits: str = "[]") -> str:
    """A Pod of these containers, given as YAML flow sequences."""
    return (
        f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations: {annotations}\n"
        f"spec:\n  initContainers: {inits}\n  containers: {containers}\n"
    )


def container(name: str, limits: str = "{}", requests: str = "{}", more: str = "") -> str:
    """A container in YAML's flow style."""
    return f"{{name: {name}, image: i, resources: {{limits: {limits}, requests: {requests}}}{more}}}"


def asked(text: str, replicas: int | None = None) -> tuple[float, int]:
    """Cores and bytes that a manifest asks for."""
    room = requested(parse(text), replicas=replicas)
    return room.cpu_cores, room.memory_bytes


HINTS = '{beemesh.io/resources.cpu: "2.0", beemesh.io/resources.memory: "4GB"}'


def test_nothing_asked_is_nothing() -> None:
    """A Pod without resources asks for none."""
    assert requested(parse(POD)) == Requested(cpu_cores=0.0, memory_bytes=0)


def test_a_deployment_asks_for_each_replica() -> None:
    """Requests count before limits, times the replicas, which the caller may override."""
    assert asked(DEPLOYMENT) == (0.75, 3 * 64 * MI)
    assert asked(DEPLOYMENT, replicas=5) == (1.25, 5 * 64 * MI)
    assert asked(DEPLOYMENT, replicas=0) == (0.0, 0)
    assert asked(DEPLOYMENT.replace("  replicas: 3\n", "")) == (0.25, 64 * MI)


def test_limits_count_where_there_are_no_requests() -> None:
    """A container that has only a limit asks for it, one with neither asks for nothing."""
    text = pod(f"[{container('a', '{cpu: 1, memory: 1Gi}')}, {container('b', requests='{cpu: 100m}')}]")
    assert asked(text) == (1.1, GI)


def test_init_containers_count_by_the_largest() -> None:
    """Init containers run one at a time, before the others; those that stay are added to both."""
    inits = f"[{container('i', '{cpu: 3}')}, {container('j', '{cpu: 1, memory: 1Gi}')}]"
    assert asked(pod(f"[{container('a', '{cpu: 1, memory: 2Gi}')}]", inits=inits)) == (3.0, 2 * GI)
    sidecar = container("s", "{cpu: 1}", more=", restartPolicy: Always")
    inits = f"[{sidecar}, {container('i', '{cpu: 2}')}]"
    assert asked(pod(f"[{container('a', '{cpu: 1}')}]", inits=inits)) == (3.0, 0)


def test_a_pods_own_resources_count_instead_of_its_containers() -> None:
    """Resources at the level of the pod replace the sum of its containers."""
    text = pod(f"[{container('a', '{cpu: 1}')}]") + "  resources: {requests: {cpu: 4}}\n"
    assert asked(text) == (4.0, 0)


def test_documents_add_up() -> None:
    """All workload documents of a manifest count, configuration does not."""
    assert asked(f"{CONFIG_MAP}---\n{DEPLOYMENT}---\n{DEPLOYMENT.replace('name: shop', 'name: b')}") == (
        1.5,
        6 * 64 * MI,
    )


def test_a_hint_is_what_a_replica_asks_for() -> None:
    """Containers without limits share the hint evenly."""
    text = pod(f"[{container('a')}, {container('b', requests='{cpu: 100m}')}]", annotations=HINTS)
    assert asked(text) == (2.0, 4_000_000_000)
    limits = Limits(cpu_cores=1.0, memory_bytes=2_000_000_000)
    assert container_limits(parse(text).primary) == {"a": limits, "b": limits}


def test_the_smaller_of_hint_and_limit_counts() -> None:
    """A limit below the hint stays; a limit above it is cut to it."""
    text = pod(f"[{container('a', '{cpu: 500m, memory: 8Gi}')}]", annotations=HINTS)
    assert asked(text) == (0.5, 4_000_000_000)
    assert container_limits(parse(text).primary) == {"a": Limits(cpu_cores=0.5, memory_bytes=4_000_000_000)}


def test_what_limits_leave_is_shared_by_the_others() -> None:
    """The containers without a limit share what the limited ones leave of the hint."""
    text = pod(f"[{container('a', '{cpu: 500m}')}, {container('b')}, {container('c')}]", annotations=HINTS)
    limits = container_limits(parse(text).primary)
    assert [limits[name].cpu_cores for name in "abc"] == [0.5, 0.75, 0.75]
    assert asked(text)[0] == 2.0


def test_limits_that_leave_nothing_are_cut() -> None:
    """Where limits already reach the hint, every container gets an equal part at most."""
    text = pod(f"[{container('a', '{cpu: 3}')}, {container('b')}]", annotations=HINTS)
    limits = container_limits(parse(text).primary)
    assert [limits[name].cpu_cores for name in "ab"] == [1.0, 1.0]


def test_limits_stay_without_hints() -> None:
    """Without a hint, limits are those of the manifest."""
    assert container_limits(parse(DEPLOYMENT).primary) == {"app": Limits(cpu_cores=1.0, memory_bytes=128 * MI)}
    assert container_limits(parse(POD).primary) == {"nginx": Limits(cpu_cores=None, memory_bytes=None)}
    assert container_limits(parse(MACHINE).primary) == {}


def test_a_hint_in_a_template_counts_for_each_replica() -> None:
    """A Deployment's hint is for one replica."""
    text = DEPLOYMENT.replace("  namespace: store\n", f"  annotations: {HINTS}\n")
    assert asked(text) == (3.0, 3 * 128 * MI)


def test_machines_and_functions_ask_for_their_size() -> None:
    """A VirtualMachine asks for vcpus and memory, a Function for memory; a hint is a ceiling to both."""
    assert asked(MACHINE) == (2.0, 4 * GI)
    assert asked(FUNCTION) == (0.0, 512 * MI)
    hint = '"wasm"\n    beemesh.io/resources.cpu: "0.5"\n    beemesh.io/resources.memory: 64Mi'
    assert asked(FUNCTION.replace('"wasm"', hint)) == (0.5, 64 * MI)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("{image: a}", (0.0, 0)),
        ("{image: a, cpus: 0.5, mem_limit: 64m}", (0.5, 64 * MI)),
        ("{image: a, mem_limit: 64m, mem_reservation: 32m, scale: 2}", (0.0, 64 * MI)),
        ("{image: a, deploy: {resources: {limits: {cpus: '0.5', memory: 64M}}}}", (0.5, 64 * MI)),
        (
            "{image: a, deploy: {replicas: 3, resources: {limits: {cpus: '2'}, reservations: {cpus: '1'}}}}",
            (3.0, 0),
        ),
        ("{image: a, cpus: '${CPUS}', scale: '${N}'}", (0.0, 0)),
        ("{image: a, cpus: 1, scale: 0}", (0.0, 0)),
        ("{image: a, cpus: 1, deploy: [1], scale: true}", (1.0, 0)),
        ("{image: a, cpus: 1, deploy: {replicas: 2000000000}}", (2e9, 0)),
    ],
)
def test_compose_services_ask_for_each_copy(service: str, expected: tuple[float, int]) -> None:
    """Reservations count before limits, times the scale; what Compose has yet to interpolate counts as nothing."""
    assert asked(f"services: {{a: {service}}}") == expected


def test_a_hint_caps_a_whole_compose_project() -> None:
    """The services of a project share its hint."""
    assert asked(COMPOSE + f"x-beemesh: {{annotations: {HINTS}}}\n") == (2.0, 4_000_000_000)


@pytest.mark.parametrize("hint", ["lots", "-1", "0", "", "1e999"])
def test_a_bad_hint_is_refused_with_path_and_line(hint: str) -> None:
    """A hint that is no amount is refused where it stands."""
    for key in ("beemesh.io/resources.cpu", "beemesh.io/resources.memory"):
        error = the_violation(POD.replace("beemesh.io/runtime-engine", key).replace("podman", hint))
        assert (error.field_path, error.line, error.reason) == (f'metadata.annotations["{key}"]', 6, "BAD_VALUE")


def test_a_bad_amount_in_compose_is_refused_with_path_and_line() -> None:
    """An amount that Compose would not read either is refused where it stands."""
    with pytest.raises(InvalidArgument, match="not an amount of memory") as caught:
        requested(parse("services:\n  a:\n    mem_limit: big\n"))
    assert (caught.value.violations[0].field_path, caught.value.violations[0].line) == ("services.a.mem_limit", 3)


@given(
    st.lists(st.none() | st.integers(1, 10**12), min_size=1, max_size=6),
    st.integers(1, 10**12),
)
def test_limits_after_a_hint_never_exceed_it(limits: list[int | None], hint: int) -> None:
    """Together, containers stay within the hint, each within its own limit, and none is left without a limit."""
    containers = ", ".join(
        container(f"c{number}", "{}" if limit is None else f"{{memory: {limit}}}")
        for number, limit in enumerate(limits)
    )
    text = pod(f"[{containers}]", annotations=f'{{beemesh.io/resources.memory: "{hint}"}}')
    effective = container_limits(parse(text).primary)
    sizes = [effective[f"c{number}"].memory_bytes for number in range(len(limits))]
    assert sum(size for size in sizes if size is not None) <= hint
    for size, limit in zip(sizes, limits, strict=True):
        assert size is not None
        assert limit is None or size <= limit
    assert requested(parse(text)).memory_bytes <= hint


@pytest.mark.parametrize(
    ("text", "replicas", "expected"),
    [
        (DEPLOYMENT.replace("replicas: 3", "replicas: 0"), None, True),
        (DEPLOYMENT.replace("replicas: 3", "replicas: 0"), 2, False),
        (DEPLOYMENT, None, False),
        (DEPLOYMENT, 0, True),
        (f"{DEPLOYMENT.replace('replicas: 3', 'replicas: 0')}---\n{POD}", None, False),
        (COMPOSE, 0, True),
    ],
)
def test_nothing_may_be_what_is_wanted(text: str, replicas: int | None, expected: bool) -> None:
    """No replica is wanted where the override, or else every workload of the manifest, says zero."""
    assert scaled_to_zero(parse(text), replicas=replicas) is expected


@pytest.mark.parametrize(
    ("text", "replicas", "place"),
    [
        (DEPLOYMENT.replace("replicas: 3", "replicas: 2000000000"), None, ("spec.replicas", 7)),
        (DEPLOYMENT, 5_001, ("spec.replicas", 7)),
        (DEPLOYMENT.replace("replicas: 3", "replicas: 2000000000"), 5_000, None),
        (pod(f"[{', '.join(container(f'c{n}') for n in range(100))}]"), 51, ("spec.replicas", 7)),
        (pod(f"[{', '.join(container(f'c{n}') for n in range(100))}]"), 50, None),
        (COMPOSE + "    scale: 6000\n", None, ("services", 3)),
        (COMPOSE + "    scale: 5000\n", None, None),
        (MACHINE, 5_001, ("spec.replicas", 8)),
    ],
)
def test_nobody_asks_for_more_containers_than_a_node_makes(
    text: str, replicas: int | None, place: tuple[str, int] | None
) -> None:
    """All containers of all replicas are counted; too many are refused at the line that says how many."""
    if place is None:
        check_size(parse(text), replicas=replicas)
        return
    with pytest.raises(InvalidArgument) as caught:
        check_size(parse(text), replicas=replicas)
    (found,) = caught.value.violations
    assert (found.field_path, found.line, found.reason) == (*place, "TOO_MANY_REPLICAS")
