"""An operator's day with Deployments on real podman, by beectl alone: seen from inside, kept alive, apart, removed."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import podman_state
from scripts.local_node import LocalNode
from scripts.make_test_image import REFERENCE
from services.identity import workload_id
from tests.harness.beectl import Beectl, objects, podman_node

pytestmark = [pytest.mark.podman, pytest.mark.usefixtures("podman_image")]

WITHIN = 30.0
WEB = f"""\
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{mode: fast, app.conf: "workers = 3\\n"}}
---
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{token: hush-3301}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 20
      volumes:
      - {{name: settings, configMap: {{name: settings}}}}
      - {{name: login, secret: {{secretName: login}}}}
      - {{name: data, persistentVolumeClaim: {{claimName: data}}}}
      containers:
      - name: main
        image: {REFERENCE}
        command: [sh, -c, "trap 'exit 0' TERM; touch /tmp/alive; while :; do sleep 0.1; done"]
        env:
        - {{name: MODE, valueFrom: {{configMapKeyRef: {{name: settings, key: mode}}}}}}
        resources: {{limits: {{memory: 64Mi}}, requests: {{memory: 16Mi}}}}
        readinessProbe: {{exec: {{command: [sh, -c, test -e /tmp/alive]}}, periodSeconds: 1, timeoutSeconds: 10}}
        livenessProbe:
          exec: {{command: [sh, -c, test -e /tmp/alive]}}
          periodSeconds: 1
          timeoutSeconds: 10
          failureThreshold: 1
        volumeMounts:
        - {{name: settings, mountPath: /settings}}
        - {{name: login, mountPath: /login, readOnly: true}}
        - {{name: data, mountPath: /data}}
"""
ID = "deployment-default-web"
INSIDE = "echo $MODE; cat /settings/app.conf /login/token; echo; cat /sys/fs/cgroup/memory/memory.limit_in_bytes \
/sys/fs/cgroup/memory.max 2>/dev/null; echo x >> /data/who"

SAVES_SECONDS = 1.5
SAVE = f"sleep {SAVES_SECONDS}; echo saved >> /data/log; exit 0"
SAVER = f"""\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: saver}}
spec:
  terminationGracePeriodSeconds: 30
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
  containers:
  - name: main
    image: {REFERENCE}
    command: [sh, -c, "trap '{SAVE}' TERM; while :; do sleep 0.05; done"]
    readinessProbe: {{exec: {{command: [sh, -c, exit 0]}}, periodSeconds: 1, timeoutSeconds: 10}}
    volumeMounts: [{{name: data, mountPath: /data}}]
"""
STALL_SECONDS = 3.2
"""What podman's own removal takes longer than needed where probes were just run."""


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """One node for all of these."""
    with podman_node() as started:
        yield started


@pytest.fixture
def beectl(node: LocalNode) -> Iterator[Beectl]:
    """A shell on this node; what a test leaves is deleted."""
    program = Beectl(node)
    yield program
    program.clear()


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds."""
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, f"not within {WITHIN:g}s: {what}"
        time.sleep(0.2)


def kill(container: str) -> None:
    """KILL the container's process, behind everybody's back."""
    os.kill(int(podman_state.podman("container", "inspect", "--format", "{{.State.Pid}}", container)), signal.SIGKILL)


def test_three_replicas_are_seen_from_inside_and_kept_alive(node: LocalNode, beectl: Beectl) -> None:
    """Each replica has its files, claim and limit; what is killed or fails its probe is restarted and told."""
    beectl.ok("apply", "-f", "-", stdin=WEB)
    assert [words.split()[:3] for words in beectl.told(ID).values()] == [["RUNNING", "yes", "0"]] * 3
    for replica in range(3):
        seen = beectl.ok("exec", ID, "-c", f"{replica}/main", "--", "sh", "-c", INSIDE)
        assert seen.split() == ["fast", "workers", "=", "3", "hush-3301", str(64 << 20)]
    assert beectl.ok("exec", ID, "-c", "0/main", "--", "cat", "/data/who").split() == ["x"] * 3

    first, second, _ = (part["componentId"] for part in beectl.components(ID))
    kill(first)
    until(lambda: " 1 " in beectl.told(ID)["0/main"] and "RUNNING  yes" in beectl.told(ID)["0/main"], "runs again")
    assert re.match(r"RUNNING +yes +1 +137 Error \d+s ago", beectl.told(ID)["0/main"])
    kill(first)
    until(lambda: "CrashLoopBackOff: restarts after a back-off of 10 s" in beectl.told(ID)["0/main"], "waits")

    beectl.ok("exec", ID, "-c", second[:12], "--", "sh", "-c", "rm /tmp/alive")
    until(lambda: "LivenessProbeFailed" in beectl.told(ID)["1/main"], "its probe fails")
    until(lambda: re.match(r"RUNNING +yes +1 ", beectl.told(ID)["1/main"]) is not None, "it runs again")
    assert "last run: Liveness probe failed" in beectl.told(ID)["1/main"]
    assert re.match(r"RUNNING +yes +0 +- ", beectl.told(ID)["2/main"])
    events = beectl.ok("events", ID)
    assert "COMPONENT_RESTARTED  0/main had ended with 137 (Error); restarts so far: 1" in events
    assert re.search(r"COMPONENT_RESTARTED +1/main had ended with \d+ \(LivenessProbeFailed: ", events)

    beectl.ok("delete", ID, "--volumes")
    assert objects(node) == set()


def test_a_shell_is_one(node: LocalNode, beectl: Beectl) -> None:
    """Keys, size, Ctrl-C and exit code of a terminal go through; what runs when beectl is killed is killed with it."""
    beectl.ok("apply", "-f", "-", stdin=SAVER)
    with beectl.shell("pod-default-saver", rows=33, columns=111) as shell:
        shell.says("busybox stty size", "33 111")
        shell.resize(20, 60)
        shell.says("busybox stty size", "20 60")
        shell.types("sleep 600\r")
        until(lambda: "sleep 600" in processes(beectl), "it sleeps")
        shell.types("\x03")
        shell.says("echo still $((1 + 1))", "still 2")
        shell.types("exit 9\r")
        assert shell.ended() == 9
    megabytes = "0123456789abcdef" * (128 << 10)
    assert beectl.ok("exec", "-i", "pod-default-saver", "--", "cat", stdin=megabytes) == megabytes
    with beectl.shell("pod-default-saver", rows=20, columns=60) as shell:
        shell.types("sleep 601\r")
        until(lambda: "sleep 601" in processes(beectl), "it sleeps")
        shell.kill()
    until(lambda: "sleep 601" not in processes(beectl), "it is gone")


def processes(beectl: Beectl) -> str:
    """What runs in the container."""
    return beectl.ok("exec", "pod-default-saver", "--", "busybox", "ps", "-o", "args")


def test_what_is_written_on_term_is_there_when_the_volume_comes_again(node: LocalNode, beectl: Beectl) -> None:
    """A delete waits for TERM's work and keeps the claim alone; applied again it has its data; --volumes removes it."""
    beectl.ok("apply", "-f", "-", stdin=SAVER)
    began = time.time()
    beectl.ok("delete", "pod-default-saver")
    ended = time.time()
    (claim,) = objects(node)
    assert claim == f"volume {workload_id(node=node.node_id(), deployment='pod-default-saver')}.claim.data"
    place = podman_state.podman("volume", "inspect", "--format", "{{.Mountpoint}}", claim.split()[1])
    saved = (Path(place.strip()) / "log").stat().st_mtime
    assert saved - began >= SAVES_SECONDS
    assert ended - saved < STALL_SECONDS  # the goal is 1; the rest is for a busy machine
    sys.stdout.write(f"delete: {ended - saved:.2f} s beyond the container's own end, beectl's end included\n")
    beectl.ok("apply", "-f", "-", stdin=SAVER)
    assert beectl.ok("exec", "pod-default-saver", "--", "cat", "/data/log") == "saved\n"
    beectl.ok("delete", "pod-default-saver", "--volumes", "--force")
    assert objects(node) == set()


def test_two_deployments_of_one_file_share_nothing(node: LocalNode, beectl: Beectl) -> None:
    """Names, claims and ConfigMaps are each one's own; one's change and end leave the other's container alone."""
    single = WEB.replace("replicas: 3", "replicas: 1")
    beectl.ok("apply", "-f", "-", "--id", "one", stdin=single)
    ones = objects(node)
    beectl.ok("apply", "-f", "-", "--id", "two", stdin=single)
    twos = objects(node) - ones
    own = {name: workload_id(node=node.node_id(), deployment=name) for name in ("one", "two")}
    assert all(own["one"] in item for item in ones if "infra" not in item)
    assert len(ones) == len(twos)
    (before,) = beectl.components("one")
    beectl.ok("exec", "one", "--", "sh", "-c", "echo mine > /data/x")
    beectl.ok("apply", "-f", "-", "--id", "two", stdin=single.replace("mode: fast", "mode: slow"))
    assert beectl.ok("exec", "two", "--", "sh", "-c", "cat /settings/mode; ls /data") == "slow"
    assert beectl.ok("exec", "one", "--", "sh", "-c", "cat /settings/mode /data/x") == "fastmine\n"
    beectl.ok("delete", "two", "--volumes", "--force")
    assert objects(node) == ones
    (after,) = beectl.components("one")
    assert (after["componentId"], after.get("restartCount", 0)) == (before["componentId"], 0)
    beectl.ok("delete", "one", "--volumes", "--force")
    assert objects(node) == set()


def test_a_foreign_container_of_the_same_name_is_not_touched(node: LocalNode, beectl: Beectl) -> None:
    """A container that has the name that ours would get stays as it is, and what is in the way is said by its name."""
    taken = f"{workload_id(node=node.node_id(), deployment='pod-default-saver')}-0-main"
    stranger = podman_state.podman("create", "--name", taken, REFERENCE, "sh").strip()
    try:
        done = beectl("apply", "-f", "-", stdin=SAVER)
        assert (done.returncode, taken in done.stderr) == (1, True)
        assert done.stderr.startswith("error: ALREADY_EXISTS NAME_IN_USE")
        beectl.ok("delete", "pod-default-saver", "--volumes")
        assert podman_state.podman("container", "inspect", "--format", "{{.Id}} {{.State.Status}}", taken).split() == [
            stranger,
            "created",
        ]
    finally:
        podman_state.podman("rm", "-f", stranger)
    assert objects(node) == set()
