"""The same Compose files on every engine that runs them, seen from outside and from inside: they mean the same.

Each is deployed, looked at, and removed without a trace. What an engine does otherwise stands in `gaps/`.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest
from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb

from services.manifests import Format
from tests.conformance.conftest import get_harness
from tests.conformance.engines import ENGINES
from tests.conformance.harness import EngineHarness
from tests.conformance.test_inside import run
from tests.conformance.test_lifecycle import SECONDS, get, remove
from tests.conformance.workloads import gap
from tests.harness.docker import IMAGE
from tests.harness.engines import EngineClient
from tests.harness.processes import short_directory

pytestmark = [pytest.mark.timeout(120)]

WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A workload that was deployed."""

    client: EngineClient
    workload_id: str

    async def now(self) -> wpb.Workload:
        """As the engine has it."""
        return await get(self.client, self.workload_id)

    async def says(self, component: str, script: str) -> str:
        """What `sh -c script` prints in a component."""
        start = pb.ExecStart(workload_id=self.workload_id, component_id=component, command=("sh", "-c", script))
        out, err, _ = await run(self.client, pb.ExecWorkloadRequest(start=start))
        return (out + err).decode().strip()

    async def wrote(self, component: str) -> str:
        """Its log."""
        request = pb.StreamWorkloadLogsRequest(workload_id=self.workload_id, component_id=component)
        said = ""
        async for answer in self.client.engine.StreamWorkloadLogs(request, timeout=SECONDS):
            for line in answer.entries:
                said += line.text + ("" if line.partial else "\n")
        return said

    async def one(self, service: str) -> wpb.Component:
        """The component of a service that has one."""
        (found,) = [each for each in (await self.now()).components if each.display_name == service]
        return found


Look = Callable[[Running], Awaitable[object]]
"""Looks until what it gives is what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A Compose file, and what is to be seen of it."""

    services: str
    looks: Mapping[Look, object]
    """What each look must give, at last."""
    env: Mapping[str, str] = field(default_factory=dict)


def says(component: str, script: str) -> Look:
    """Inside."""
    return lambda running: running.says(component, script)


def wrote(component: str) -> Look:
    """In its log."""
    return lambda running: running.wrote(component)


def ends(service: str) -> Look:
    """Its state, exit code and restarts."""

    async def look(running: Running) -> object:
        found = await running.one(service)
        return found.state, found.exit_status.exit_code, found.restart_count

    return look


def counts(service: str) -> Look:
    """How many of it run."""

    async def look(running: Running) -> object:
        components = (await running.now()).components
        return sum(each.display_name == service and each.state == wpb.WORKLOAD_STATE_RUNNING for each in components)

    return look


async def over_its_port(running: Running) -> object:
    """What its only port answers from outside."""
    (port,) = (await running.now()).ports
    reader, writer = await asyncio.open_connection("127.0.0.1", port.host_port)
    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = (await reader.read()).decode()
    writer.close()
    return port.container_port, re.split(r"\r?\n\r?\n", answer)[-1].strip()


async def state(running: Running) -> object:
    """Of all of it."""
    return (await running.now()).state


LIMIT = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
PIDS = "cd /sys/fs/cgroup; cat pids/pids.max 2>/dev/null || cat pids.max"
QUOTA = "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us 2>/dev/null || cat cpu.max"
RUNNING, DONE, FAILED = wpb.WORKLOAD_STATE_RUNNING, wpb.WORKLOAD_STATE_SUCCEEDED, wpb.WORKLOAD_STATE_FAILED

WORKLOADS: Mapping[str, Shown] = {
    "a port that answers": Shown(
        services="""
  web:
    command: [sh, -c, "mkdir -p /tmp/w; echo hello > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; WAITS"]
    ports: ["127.0.0.1::8080"]
""",
        looks={over_its_port: (8080, "hello"), state: RUNNING},
    ),
    "variables": Shown(
        services="""
  web:
    command: [sh, -c, "echo $$A/$$B/$$C/${E}; WAITS"]
    environment: {A: "a b", B: "${D:-none}", C: ""}
""",
        env={"D": "x$y", "E": "x"},
        looks={wrote("web"): "a b/x$y//x\n"},
    ),
    "secrets and configs": Shown(
        services="""
  web:
    command: [sh, -c, "WAITS"]
    secrets: [{source: s, target: pw, mode: 0400}]
    configs: [{source: c, target: /etc/app.conf}]
secrets: {s: {environment: PASSWORD}}
configs: {c: {content: "a=1"}}
""",
        env={"PASSWORD": "pa55"},
        looks={
            says("web", "cat /run/secrets/pw /etc/app.conf; ls -l /run/secrets/pw | cut -c1-10"): "pa55a=1-r--------"
        },
    ),
    "limits": Shown(
        services="""
  web:
    command: [sh, -c, "WAITS"]
    deploy: {resources: {limits: {memory: 48M, pids: 40, cpus: "0.5"}}}
    ulimits: {nofile: {soft: 100, hard: 200}}
    shm_size: 4m
    sysctls: {net.core.somaxconn: 77}
""",
        looks={
            says("web", LIMIT): str(48 << 20),
            says("web", PIDS): "40",
            says("web", f"echo $({QUOTA})"): "50000 100000",
            says("web", "ulimit -Sn; ulimit -Hn"): "100\n200",
            says("web", "cat /proc/sys/net/core/somaxconn"): "77",
            says("web", "mount | grep -c 'shm.*size=4096k'"): "1",
        },
    ),
    "ends": Shown(
        services="""
  fine: {command: ["true"]}
  failed: {command: [sh, -c, "exit 7"]}
  again: {command: [sh, -c, "exit 3"], restart: "on-failure:2"}
  done: {command: ["true"], restart: on-failure}
""",
        looks={
            ends("fine"): (DONE, 0, 0),
            ends("failed"): (FAILED, 7, 0),
            ends("again"): (FAILED, 3, 2),
            ends("done"): (DONE, 0, 0),
        },
    ),
    "an order": Shown(
        services="""
  web:
    command: [sh, -c, "cat /d/log; WAITS"]
    volumes: [data:/d]
    depends_on: {db: {condition: service_healthy}, seed: {condition: service_completed_successfully}}
  db:
    command: [sh, -c, "sleep 0.5; echo db >> /d/log; WAITS"]
    volumes: [data:/d]
    depends_on: {seed: {condition: service_completed_successfully}}
    healthcheck: {test: [CMD-SHELL, "grep -q db /d/log"], interval: 300ms, retries: 50}
  seed:
    command: [sh, -c, "echo seed >> /d/log"]
    volumes: [data:/d]
volumes: {data: }
""",
        looks={wrote("web"): "seed\ndb\n", ends("seed"): (DONE, 0, 0)},
    ),
    "names in networks": Shown(
        services="""
  web: {command: [sh, -c, "WAITS"], networks: [front]}
  api:
    command: [sh, -c, "mkdir -p /tmp/w; echo api > /tmp/w/x; httpd -p 80 -h /tmp/w; WAITS"]
    networks: {front: {aliases: [other]}, back: {}}
  db:
    command: [sh, -c, "mkdir -p /tmp/w; echo db > /tmp/w/x; httpd -p 80 -h /tmp/w; WAITS"]
    networks: {back: {ipv4_address: 10.197.3.9}}
networks: {front: {}, back: {internal: true, ipam: {config: [{subnet: 10.197.3.0/24}]}}}
""",
        looks={
            says("web", "wget -q -O - http://api/x"): "api",
            says("web", "wget -q -O - http://other/x"): "api",
            says("api", "wget -q -O - http://db/x"): "db",
            says("api", "wget -q -O - http://10.197.3.9/x"): "db",
            says("web", "wget -q -T 3 -O - http://db/x 2>/dev/null || echo none"): "none",
        },
    ),
    "one network of two": Shown(
        services="""
  web: {command: [sh, -c, "WAITS"], network_mode: "service:api"}
  api: {command: [sh, -c, "mkdir -p /tmp/w; echo api > /tmp/w/x; httpd -p 80 -h /tmp/w; WAITS"]}
  alone: {command: [sh, -c, "WAITS"], network_mode: none}
""",
        looks={
            says("web", "wget -q -O - http://127.0.0.1/x"): "api",
            says("alone", "ls /sys/class/net"): "lo",
        },
    ),
    "who and where": Shown(
        services="""
  web:
    entrypoint: [sh, -c]
    command: ["id -u; id -g; pwd; hostname; WAITS"]
    user: "12:34"
    working_dir: /tmp
    hostname: here
    extra_hosts: ["there:1.2.3.4"]
    tmpfs: ["/scratch:size=1m"]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    init: true
""",
        looks={
            wrote("web"): "12\n34\n/tmp\nhere\n",
            says("web", "grep -c '1.2.3.4.*there' /etc/hosts"): "1",
            says("web", "mount | grep -c 'on /scratch type tmpfs.*size=1024k'"): "1",
            says("web", "grep -E 'CapEff|NoNewPrivs' /proc/self/status | tr -d '\\n\\t'"): (
                "CapEff:0000000000000000NoNewPrivs:1"
            ),
        },
    ),
    "volumes that are shared": Shown(
        services="""
  writer: {command: [sh, -c, "echo it > /d/x; WAITS"], volumes: [data:/d, /own]}
  reader: {command: [sh, -c, "WAITS"], volumes: ["data:/d:ro"]}
  both: {command: [sh, -c, "WAITS"], volumes_from: [writer]}
volumes: {data: }
""",
        looks={
            says("reader", "cat /d/x"): "it",
            says("reader", "touch /d/y 2>/dev/null || echo no"): "no",
            says("both", "cat /d/x; touch /d/y /own/z && echo yes"): "it\nyes",
        },
    ),
    "replicas and profiles": Shown(
        services="""
  web: {command: [sh, -c, "WAITS"], deploy: {replicas: 3}}
  never: {command: [sh, -c, "WAITS"], profiles: [debug]}
""",
        looks={counts("web"): 3, counts("never"): 0, state: RUNNING},
    ),
    "a health check": Shown(
        services="""
  well: {command: [sh, -c, "WAITS"], healthcheck: {test: "true", interval: 300ms}}
  sick: {command: [sh, -c, "WAITS"], healthcheck: {test: "echo why; false", interval: 300ms, retries: 1}}
""",
        looks={
            (lambda running: _ready(running, "well")): (True, ""),
            (lambda running: _ready(running, "sick")): (False, "Unhealthy"),
        },
    ),
    "a domain name": Shown(
        services='\n  web: {command: [sh, -c, "WAITS"], hostname: here, domainname: example.org}\n',
        looks={says("web", "hostname -f"): "here.example.org"},
    ),
    "name servers of its own": Shown(
        services="""
  web: {command: [sh, -c, "WAITS"], dns: [192.0.2.1]}
  api: {command: [sh, -c, "mkdir -p /tmp/w; echo api > /tmp/w/x; httpd -p 80 -h /tmp/w; WAITS"]}
""",
        looks={says("web", "wget -q -O - http://api/x"): "api"},
    ),
    "links": Shown(
        services="""
  web: {command: [sh, -c, "WAITS"], links: ["api:there"]}
  api: {command: [sh, -c, "mkdir -p /tmp/w; echo api > /tmp/w/x; httpd -p 80 -h /tmp/w; WAITS"]}
""",
        looks={says("web", "wget -q -O - http://there/x"): "api"},
    ),
    "the gateway as a host": Shown(
        services='\n  web: {command: [sh, -c, "WAITS"], extra_hosts: ["up:host-gateway"]}\n',
        looks={says("web", "grep up /etc/hosts | grep -vc host-gateway"): "1"},
    ),
    "a root that is only read": Shown(
        services='\n  web: {command: [sh, -c, "WAITS"], read_only: true}\n',
        looks={says("web", "touch /x 2>/dev/null || touch /tmp/x 2>/dev/null || echo no"): "no"},
    ),
}


async def _ready(running: Running, service: str) -> object:
    found = await running.one(service)
    return found.ready, found.reason


def _marks(engine: str, name: str) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, engine), *gap(engine, Format.COMPOSE, name)]


CASES = [
    pytest.param(engine, name, marks=_marks(engine, name)) for engine in ("docker", "podman") for name in WORKLOADS
]


@pytest.mark.parametrize(("engine", "name"), CASES)
async def test_a_compose_file_means_the_same(engine: str, name: str, harnesses: dict[str, EngineHarness]) -> None:
    """Inside and outside; and when it is gone, nothing is left."""
    assert Format.COMPOSE in ENGINES[engine]().formats
    harness, shown = get_harness(harnesses, engine), WORKLOADS[name]
    workload_id = f"beemesh-w{uuid.uuid4().hex[:8]}"
    request = pb.DeployWorkloadRequest(workload_id=workload_id, manifest_id="w")
    request.manifest.content = f"services:{_filled(shown.services)}"
    request.config.env.update(shown.env)
    before = harness.objects()
    with short_directory() as directory:
        async with harness.serve(directory) as client:
            await client.engine.DeployWorkload(request, timeout=SECONDS)
            try:
                for look, expected in shown.looks.items():
                    await _comes_to(Running(client=client, workload_id=workload_id), look, expected)
            finally:
                await remove(client, workload_id)
    assert harness.objects() == before


async def _comes_to(running: Running, look: Look, expected: object, *, seconds: float = 15.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (found := await look(running)) != expected and loop.time() < end:
        await asyncio.sleep(0.2)
    assert found == expected


def _filled(services: str) -> str:
    """With the image in each service, and the script that waits."""
    text = services.replace("WAITS", WAITS)
    text = re.sub(r"(?m)^(  [a-z]+:) \{(command|entrypoint)", rf"\1 {{image: {IMAGE}, \2", text)
    return re.sub(r"(?m)^(  [a-z]+:)\n(    )", rf"\1\n\2image: {IMAGE}\n\2", text)
