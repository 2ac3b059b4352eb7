"""Compose files on a real docker and a real podman: they run as they say, are seen as they are, and leave nothing."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from services.engines.compose.fields import NodePolicy
from services.engines.engine import Config, Severity, WorkloadState
from services.errors import BeemeshError, FailedPrecondition, InvalidArgument
from services.identity import LABEL_MANIFEST_HASH, LABEL_NODE_ID, LABEL_WORKLOAD_ID
from services.manifests import parse
from tests.corpus import PARSE, Case, load
from tests.harness.compose import ComposeMachine
from tests.integration.compose.workloads import WAITS, components, ids, lines, remove, said, seen, spec, until

pytestmark = [pytest.mark.timeout(90)]

SHOP = """\
x-service: &service
  image: ${IMG:-IMAGE}
  command: [sh, -c, "WAITS"]
services:
  web:
    <<: *service
    command: [sh, -c, "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"]
    stop_signal: KILL
    ports: ["127.0.0.1::8080"]
    deploy: {replicas: 2}
    networks: [front, back]
  api:
    <<: *service
    depends_on: {db: {condition: service_healthy}}
    environment: {LEVEL: "${LEVEL:-info}", PRICE: "$$5", COUNTRY: no}
    secrets: [token]
    configs: [{source: app, target: /etc/app.conf, mode: 0440}]
    networks: {back: {aliases: [interface]}}
    deploy: {resources: {limits: {cpus: "0.25", memory: 64M, pids: 50}}}
  db:
    <<: *service
    restart: always
    command: [sh, -c, "touch /data/ready; WAITS"]
    healthcheck: {test: [CMD, ls, /data/ready], interval: 200ms, retries: 20}
    volumes: [data:/data, /scratch]
    networks: [back]
  debug:
    <<: *service
    profiles: [debug]
configs: {app: {content: "mode=fast"}}
secrets: {token: {environment: TOKEN}}
networks: {front: , back: {internal: true}}
volumes: {data: }
"""


async def test_a_shop_runs_as_it_says_and_leaves_nothing(machine: ComposeMachine, node_id: str) -> None:
    """Three services, in order, with all that a file can say of them; gone, only the volume is there, then nothing."""
    before = machine.objects()
    shop = spec(node_id, SHOP, env={"TOKEN": "s3cret"}, labels={"team": "blue"})
    told: list[str] = []
    async with machine.engine(node_id) as engine:
        engine.listener = lambda _, progress: told.append(progress)
        await engine.create(shop)
        found = await components(engine, shop)
        assert set(found) == {"web-0", "web-1", "api-0", "db-0"}
        assert {each.state for each in found.values()} == {WorkloadState.RUNNING}
        assert (found["db-0"].ready, found["api-0"].ready) == (True, None)
        assert any("starting container" in progress for progress in told)
        assert told[-1] == ""
        port = (await seen(engine, shop)).ports[0]
        assert (port.container_port, port.host_ip, len((await seen(engine, shop)).ports)) == (8080, "127.0.0.1", 2)
        assert await asyncio.to_thread(_get, port.host_port) == "hello"
        inside = "echo $LEVEL $PRICE $COUNTRY $TOKEN; cat /run/secrets/token /etc/app.conf; ls -l /etc/app.conf"
        told_inside = await said(engine, shop, "api", inside)
        assert told_inside.startswith("info $5 no s3cret\ns3cretmode=fast-r--r-----")
        limit = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
        assert await said(engine, shop, "api", limit) == str(64 << 20)
        assert await said(engine, shop, "api", "wget -q -O - http://web:8080/index.html") == "hello"
        assert _owned(machine, shop.workload_id, node_id)
        await remove(engine, shop, volumes=False)
        assert machine.objects() - before == {f"volume bm-{shop.workload_id}_data"}
        assert await engine.observe_one(shop.workload_id) is None
        await engine.create(shop)  # on what it has left
        assert await said(engine, shop, "db", "ls /data") == "ready"
        await remove(engine, shop)
        await remove(engine, shop)  # a repeat is harmless
    assert machine.objects() == before


def _get(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        return connection.makefile().read().split("\n\n")[-1].strip()


def _owned(machine: ComposeMachine, workload: str, node_id: str) -> bool:
    """Every container, network and volume of it carries its labels."""
    labels = machine.labels(workload)
    assert len(labels) == 4 + 2 + 1
    return all((each[LABEL_NODE_ID], each[LABEL_WORKLOAD_ID]) == (node_id, workload) for each in labels)


ACCEPTED = load("compose", lambda case: case.verdict.judge != PARSE)
REFUSED_HERE = {
    "configs-and-secrets": [("secrets.token.environment", "REFERENCE_NOT_FOUND", 16)],
}
"""What this node refuses of what can be read, as it is given: without variables."""


@pytest.mark.parametrize("case", ACCEPTED, ids=[case.path.stem for case in ACCEPTED])
def test_the_corpus_is_honoured_or_refused_by_field(machine: ComposeMachine, node_id: str, case: Case) -> None:
    """Each finding with its path and line; nothing else is said."""
    issues = machine.engine(node_id).check(parse(case.text), Config())
    found = [(issue.field_path, issue.reason, issue.line) for issue in issues if issue.severity is Severity.ERROR]
    assert found == REFUSED_HERE.get(case.path.stem, [])


async def test_the_corpus_runs(machine: ComposeMachine, node_id: str) -> None:
    """All of it, one project beside the other, on an image that waits."""
    machine.make_image("localhost/waits:1", changes=[f'CMD ["sh", "-c", "{WAITS}"]'])
    texts = {case.path.stem: case.text.replace("localhost/beemesh-busybox:1", "localhost/waits:1") for case in ACCEPTED}
    specs = [spec(node_id, text, name=f"c-{stem}"[:40].rstrip("-"), env={"TOKEN": "x"}) for stem, text in texts.items()]
    before = machine.objects()
    async with machine.engine(node_id) as engine:
        await asyncio.gather(*(engine.create(each) for each in specs))
        found = await engine.observe()
        assert set(found) == {each.workload_id for each in specs}
        states = {component.state for each in found.values() for component in each.components}
        assert states == {WorkloadState.RUNNING}
        await asyncio.gather(*(remove(engine, each) for each in specs))
    assert machine.objects() == before


BAD_FILES = {
    "an unknown reference": ("depends_on: [nobody]", "services.web", 3),
    "a wrong type": ("ports: {a: b}", "services.web.ports", 4),
}


@pytest.mark.parametrize("name", BAD_FILES)
async def test_what_compose_does_not_take_has_its_line(machine: ComposeMachine, node_id: str, name: str) -> None:
    """INVALID_ARGUMENT to who validates and to who deploys, and nothing is touched."""
    line, path, number = BAD_FILES[name]
    before = machine.objects()
    bad = spec(node_id, f"services:\n  web:\n    image: IMAGE\n    {line}\n")
    async with machine.engine(node_id) as engine:
        for asked in (engine.examine(bad.manifest, bad.config), engine.create(bad)):
            with pytest.raises(InvalidArgument) as caught:
                await asked
            assert caught.value.reason == "MANIFEST_INVALID"
            assert (caught.value.violations[0].field_path, caught.value.violations[0].line) == (path, number)
    assert machine.objects() == before


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("privileged: ${YES}", "services.web.privileged"),
        ("volumes: ['${ETC}:/host']", "services.web.volumes[0]"),
        ("network_mode: ${HOST}", "services.web.network_mode"),
        ("cap_add: ['${CAP}']", "services.web.cap_add[0]"),
        ("pid: ${HOST}", "services.web.pid"),
    ],
)
async def test_a_variable_brings_nothing_in(machine: ComposeMachine, node_id: str, line: str, path: str) -> None:
    """What Compose has filled in is refused as if it had been written, before the backend is asked for anything."""
    env = {"YES": "true", "ETC": "/etc", "HOST": "host", "CAP": "SYS_ADMIN"}
    bad = spec(node_id, f"services:\n  web:\n    image: IMAGE\n    {line}\n", env=env)
    async with machine.engine(node_id) as engine:
        assert not [issue for issue in engine.check(bad.manifest, bad.config) if issue.severity is Severity.ERROR]
        with pytest.raises(FailedPrecondition) as caught:
            await engine.create(bad)
        assert await engine.observe_one(bad.workload_id) is None
    assert (caught.value.reason, caught.value.violations[0].field_path) == ("HOST_ACCESS_DENIED", path)
    assert caught.value.violations[0].line == 4


async def test_our_environment_is_not_the_files(
    machine: ComposeMachine, node_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by a variable nor by a name without a value, and not when Compose reads the project again."""
    monkeypatch.setenv("OURS", "leaked")
    text = (
        'services:\n  web:\n    image: IMAGE\n    command: [sh, -c, "env; WAITS"]\n'
        "    environment: ['A=${OURS:-unset}', OURS, 'HOME2=${HOME-none}', DOCKER_HOST, DOCKER_CONFIG, GIVEN]\n"
    )
    mine = spec(node_id, text, env={"GIVEN": "x$y"})
    async with machine.engine(node_id) as engine:
        await engine.create(mine)

        async def written() -> bool:
            return {"A=unset", "HOME2=none", "GIVEN=x$y"} <= set(await lines(engine, mine))

        await until(written)
        wanted = await lines(engine, mine)
        await remove(engine, mine)
    assert not [line for line in wanted if line.startswith(("OURS", "DOCKER"))]


async def test_files_of_the_allowed_directory_are_read(machine: ComposeMachine, node_id: str, tmp_path: Path) -> None:
    """env_file, and the files of secrets."""
    (tmp_path / "x.env").write_text("FROM_FILE=1\n")
    (tmp_path / "token").write_text("t0ken")
    text = (
        "services:\n  web:\n    image: IMAGE\n"
        '    command: [sh, -c, "echo $$FROM_FILE; cat /run/secrets/t; echo; WAITS"]\n'
        f"    env_file: {tmp_path}/x.env\n    secrets: [t]\nsecrets: {{t: {{file: {tmp_path}/token}}}}\n"
    )
    mine = spec(node_id, text)
    async with machine.engine(node_id, policy=NodePolicy(file_root=tmp_path)) as engine:
        assert engine.check(mine.manifest, mine.config) == []
        await engine.create(mine)

        async def written() -> bool:
            return await lines(engine, mine) == ["1", "t0ken"]

        await until(written)
        await remove(engine, mine)


async def test_a_node_may_grant_host_access(machine: ComposeMachine, node_id: str, tmp_path: Path) -> None:
    """Then binds, the host's network, names and capabilities are what the file says."""
    (tmp_path / "here").write_text("seen")
    text = (
        'services:\n  web:\n    image: IMAGE\n    command: [sh, -c, "WAITS"]\n    cap_add: [NET_ADMIN]\n'
        f"    network_mode: host\n    container_name: {node_id[:12]}\n    volumes: ['{tmp_path}:/host:ro']\n"
    )
    mine = spec(node_id, text)
    async with machine.engine(node_id, policy=NodePolicy(host_access=True)) as engine:
        assert engine.check(mine.manifest, mine.config) == []
        await engine.create(mine)
        assert await said(engine, mine, "web", "cat /host/here") == "seen"
        (container,) = machine.containers(f"{LABEL_WORKLOAD_ID}={mine.workload_id}")
        assert container["HostConfig"]["NetworkMode"] == "host"
        assert [name.removeprefix("CAP_") for name in container["HostConfig"]["CapAdd"]] == ["NET_ADMIN"]
        assert container["Name"] == f"/{node_id[:12]}"
        await remove(engine, mine)


async def test_profiles_are_an_option_and_logs_are_capped(machine: ComposeMachine, node_id: str) -> None:
    """A profile's service runs only when asked for; its log file has a limit that the file has not given."""
    text = 'services:\n  web: &w {image: IMAGE, command: [sh, -c, "WAITS"]}\n  debug: {<<: *w, profiles: [d]}\n'
    plain, with_debug = (spec(node_id, text, engine_options=o) for o in ({}, {"profiles": "d"}))
    directory = machine.directory / node_id[:8]
    async with machine.engine(node_id, run_dir=directory, log_bytes=3_000_000) as engine:
        await engine.create(plain)
        assert set(await ids(engine, plain)) == {"web-0"}
        (container,) = machine.containers(f"{LABEL_WORKLOAD_ID}={plain.workload_id}")
        assert machine.log_limit(container) == 3_000_000
        assert container["Config"]["Labels"][LABEL_MANIFEST_HASH]
        await remove(engine, plain)
        await engine.create(with_debug)
        assert set(await ids(engine, with_debug)) == {"web-0", "debug-0"}
        await remove(engine, with_debug)
    assert _below(directory) == ["compose-empty"]  # which Compose has left as it was


def _below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


FAILURES = {
    "no program": ("command: [no-such-program]", "START_FAILED"),
    "no image": ("pull_policy: never\n    image: localhost/nobody:1", "IMAGE_NOT_FOUND"),
    "a registry that is not there": ("image: 127.0.0.1:1/nobody:1", "REGISTRY_UNREACHABLE"),
    "a dependency that stays sick": (
        'command: [sh, -c, "WAITS"]\n    depends_on: {db: {condition: service_healthy}}\n'
        '  db:\n    image: IMAGE\n    command: [sh, -c, "echo I am here; WAITS"]\n    volumes: [data:/d]\n'
        "    healthcheck: {test: [CMD-SHELL, 'echo not yet; false'], interval: 100ms, retries: 1}\nvolumes: {data: }",
        "DEPENDENCY_FAILED",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_what_cannot_be_started_leaves_nothing(machine: ComposeMachine, node_id: str, name: str) -> None:
    """The reason, and no container, network or volume; of an image the full name that was tried."""
    lines_, reason = FAILURES[name]
    image = "" if "image:" in lines_.split("\n  db:")[0] else "    image: IMAGE\n"
    before = machine.objects()
    async with machine.engine(node_id) as engine:
        with pytest.raises(BeemeshError) as caught:
            await engine.create(spec(node_id, f"services:\n  web:\n{image}    {lines_}\n"))
    assert caught.value.reason == reason
    assert "leftovers" not in caught.value.metadata
    if reason == "DEPENDENCY_FAILED":
        assert "db: its healthcheck fails: not yet; its last words: I am here" in caught.value.message
    if "image" in name or "registry" in name:
        assert caught.value.metadata["image"].endswith("/nobody:1")
    assert machine.objects() == before


async def test_a_taken_port_is_named(machine: ComposeMachine, node_id: str) -> None:
    """PORT_IN_USE, with the port, whoever has it."""
    before = machine.objects()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"services: {{web: {{image: IMAGE, command: [sh, -c, \"WAITS\"], ports: ['127.0.0.1:{port}:80']}}}}\n"
        async with machine.engine(node_id) as engine:
            with pytest.raises(FailedPrecondition) as caught:
                await engine.create(spec(node_id, text))
    assert (caught.value.reason, caught.value.metadata["host_port"]) == ("PORT_IN_USE", str(port))
    assert machine.objects() == before


async def test_ends_are_seen_as_they_were(machine: ComposeMachine, node_id: str) -> None:
    """Exit codes, a kill for want of memory, restarts and their count, a healthcheck that fails."""
    text = """\
services:
  fine: {image: IMAGE, command: ["true"]}
  failed: {image: IMAGE, command: [sh, -c, "exit 7"]}
  greedy:
    image: IMAGE
    mem_limit: 8m
    command: [sh, -c, "x=1234567890; while :; do x=$$x$$x; done"]
  restless: {image: IMAGE, command: [sh, -c, "exit 3"], restart: on-failure:2}
  sick:
    image: IMAGE
    command: [sh, -c, "WAITS"]
    healthcheck: {test: [CMD-SHELL, "echo not well; exit 1"], interval: 100ms, retries: 1}
"""
    mine = spec(node_id, text)
    async with machine.engine(node_id) as engine:
        await engine.create(mine)

        async def settled() -> bool:
            found = await components(engine, mine)
            ended = all(found[f"{name}-0"].exit_status for name in ("fine", "failed", "greedy", "restless"))
            return ended and found["restless-0"].restart_count == 2 and found["sick-0"].reason == "Unhealthy"

        await until(settled)
        found = {name.removesuffix("-0"): each for name, each in (await components(engine, mine)).items()}
        await remove(engine, mine)
    ends = {name: each.exit_status for name, each in found.items() if each.exit_status}
    assert {name: each.exit_code for name, each in ends.items() if name != "greedy"} == {
        "fine": 0,
        "failed": 7,
        "restless": 3,
    }
    assert (ends["greedy"].oom_killed, found["greedy"].reason) == (True, "OOMKilled")
    assert (found["fine"].state, found["failed"].state) == (WorkloadState.SUCCEEDED, WorkloadState.FAILED)
    assert (found["sick"].ready, "not well" in found["sick"].message) == (False, True)
