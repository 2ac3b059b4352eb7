"""beectl against a node: the commands of the README, and what they say when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from beemesh.engine.v1 import engine_service_pb2 as engine_pb2

from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode

ID = "pod-default-pretend"
BEECTL = [sys.executable, "-m", "services.cli"]


@pytest.fixture(scope="module")
def node() -> Iterator[LocalNode]:
    """One node for all of these; each test leaves it without deployments."""
    with LocalNode(engines="mock") as started:
        yield started


def environment(node: LocalNode) -> Mapping[str, str]:
    """What makes beectl find this node as the machine's own."""
    return {**os.environ, "BEEMESH_RUN_DIR": str(node.run_dir)}


def beectl(node: LocalNode, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run beectl to its end."""
    return subprocess.run(
        [*BEECTL, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=REPOSITORY,
        env=environment(node),
    )


@pytest.fixture
def applied(node: LocalNode) -> Iterator[LocalNode]:
    """The node with the mock pod applied; deleted afterwards."""
    assert beectl(node, "apply", "-f", "examples/mock.yaml").returncode == 0
    yield node
    beectl(node, "delete", ID, "--ignore-not-found")


def test_what_an_engine_does_not_know_of_the_config_counts_in_its_verdict(node: LocalNode) -> None:
    """An engine that does not know an option of the config is not selected, and says which option it is."""
    selected = beectl(node, "select", "-f", "examples/mock.yaml", "--option", "colour=red")
    assert selected.stdout.startswith("selected: none\n"), selected
    assert "config.engine_options.colour" in selected.stdout


def test_a_deployment_lives_through_all_commands(node: LocalNode) -> None:
    """Apply, get, describe, logs, providers and delete work one after the other, as the README shows them."""
    selected = beectl(node, "select", "-f", "examples/mock.yaml")
    assert selected.stdout.startswith("selected: mock\n")
    assert beectl(node, "apply", "-f", "examples/mock.yaml").stdout == f"deployment/{ID} created: ACTIVE on mock\n"
    assert "unchanged" in beectl(node, "apply", "-f", "examples/mock.yaml").stdout
    assert beectl(node, "get", ID).stdout.splitlines()[1].split()[:3] == [ID, "ACTIVE", "mock"]
    assert "Workload beemesh-" in beectl(node, "describe", ID).stdout
    assert len(beectl(node, "logs", ID, "--tail", "2").stdout.splitlines()) == 2
    assert "beemesh-pod-default-pretend-" in beectl(node, "providers", ID, "--engine", "mock").stdout
    assert beectl(node, "delete", ID).stdout == f"deployment/{ID} deleted\n"
    assert beectl(node, "get").stdout == "no deployments\n"


def test_what_would_be_and_what_was_can_be_asked(applied: LocalNode, tmp_path: Path) -> None:
    """Plan, events, revisions, roll back and wait, on one deployment."""
    text = (REPOSITORY / "examples/mock.yaml").read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("nginx:1", "nginx:2"))
    assert beectl(applied, "plan", "-f", "examples/mock.yaml").stdout == "NONE on mock\n"
    assert beectl(applied, "wait", ID, "--timeout", "10s").stdout == f"deployment/{ID} ACTIVE\n"
    assert beectl(applied, "apply", "-f", str(changed)).returncode == 0
    listed = beectl(applied, "revisions", ID).stdout.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["2", "ACTIVE"], ["1", "ACTIVE"]]
    assert beectl(applied, "rollback", ID).stdout == f"deployment/{ID} rolled back: ACTIVE, revision 3\n"
    told = [line.split()[1] for line in beectl(applied, "events", ID).stdout.splitlines()[1:]]
    assert told[:3] == ["APPLY_ACCEPTED", "DEPLOYED", "ACTIVE"]
    late = beectl(applied, "wait", ID, "--for", "stopped", "--timeout", "200ms")
    assert (late.returncode, "WAIT_TIMEOUT" in late.stderr) == (1, True)
    unknown = beectl(applied, "wait", ID, "--for", "perfect")
    assert (unknown.returncode, "perfect" in unknown.stderr) == (2, True)


def test_a_deployment_is_stopped_started_and_looked_into(applied: LocalNode) -> None:
    """Stop, start, restart, exec, stats, drift, reconcile and export, on one deployment."""
    assert beectl(applied, "stop", ID).stdout == f"deployment/{ID} stopped: STOPPED\n"
    refused = beectl(applied, "exec", ID, "--", "true")
    assert (refused.returncode, "WORKLOAD_NOT_RUNNING" in refused.stderr) == (1, True)
    assert beectl(applied, "start", ID).stdout == f"deployment/{ID} started: ACTIVE\n"
    assert beectl(applied, "restart", ID, "--grace", "1s").stdout == f"deployment/{ID} restarted: ACTIVE\n"
    assert beectl(applied, "exec", "-i", ID, "--", "cat", stdin="to and fro").stdout == "to and fro"
    assert beectl(applied, "stats", ID).stdout.splitlines()[0].split()[:3] == ["COMPONENT", "CPU", "MEMORY"]
    assert beectl(applied, "drift", ID).returncode == 0
    assert beectl(applied, "reconcile", ID).stdout == f"deployment/{ID} reconciled: ACTIVE\n"
    assert beectl(applied, "export", ID).stdout == (REPOSITORY / "examples/mock.yaml").read_text()


def test_what_is_watched_is_told_as_it_changes(node: LocalNode) -> None:
    """A watch that began before the apply says how it goes, from the first step to the last."""
    with subprocess.Popen(
        [*BEECTL, "watch"], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment(node)
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[:3] == ["TIME", "NAME", "STATE"]
        assert beectl(node, "apply", "-f", "examples/mock.yaml").returncode == 0
        assert beectl(node, "delete", ID).returncode == 0
        states = []
        while "DELETED" not in states:
            states.append(watching.stdout.readline().split()[2])
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=20)
    assert states[0] in ("PENDING", "DEPLOYING")
    assert "ACTIVE" in states


def test_what_nobody_claims_is_listed_and_purged(node: LocalNode) -> None:
    """A workload that no deployment claims is an orphan: named by a preview, gone after a purge that is forced."""
    request = engine_pb2.DeployWorkloadRequest(workload_id="beemesh-lost-0a0b0c0d", manifest_id="lost")
    request.manifest.content = (REPOSITORY / "examples/mock.yaml").read_text()
    with Client(node.socket) as client:
        client.call(client.engine.DeployWorkload, request, engine="mock")
    for _ in range(100):  # the orchestrator is told of it by the engine's watch
        listed = beectl(node, "orphans", "list").stdout
        if "beemesh-lost" in listed:
            break
    assert listed.splitlines()[1].split()[:4] == ["beemesh-lost-0a0b0c0d", "mock", "RUNNING", "lost"]
    assert beectl(node, "orphans", "purge").stdout == "engines/mock/workloads/beemesh-lost-0a0b0c0d would be removed\n"
    assert "beemesh-lost" in beectl(node, "orphans", "list").stdout
    foreign = beectl(node, "orphans", "adopt", "beemesh-lost-0a0b0c0d")
    assert (foreign.returncode, "NOT_ITS_WORKLOAD" in foreign.stderr) == (1, True)
    done = beectl(node, "orphans", "purge", "beemesh-lost-0a0b0c0d", "--force")
    assert done.stdout == "engines/mock/workloads/beemesh-lost-0a0b0c0d removed\n"
    assert beectl(node, "orphans", "list").stdout == "no orphans\n"


def test_engines_and_version_are_told(node: LocalNode) -> None:
    """The node's engines and its id can be asked for, by the socket and by the public port."""
    assert "AVAILABLE" in beectl(node, "engines", "--probe").stdout
    by_socket = beectl(node, "version")
    by_port = beectl(node, "--address", node.public, "--token-file", str(node.token_file), "version")
    assert by_socket.stdout.split()[3] == by_port.stdout.split()[3] == node.node_id()


def test_a_token_is_sent_only_where_it_was_meant_to_go(node: LocalNode) -> None:
    """Without --token-file none is sent, and none goes to another machine in clear."""
    unasked = beectl(node, "--address", node.public, "get")
    assert (unasked.returncode, "TOKEN_REQUIRED" in unasked.stderr) == (1, True)
    in_clear = beectl(node, "--address", "192.0.2.1:7443", "--token-file", str(node.token_file), "get")
    assert (in_clear.returncode, "--ca" in in_clear.stderr) == (1, True)


def test_a_dry_run_touches_nothing(node: LocalNode) -> None:
    """A dry run says what would happen and leaves no deployment."""
    done = beectl(node, "apply", "-f", "examples/mock.yaml", "--dry-run")
    assert done.returncode == 0
    assert "(dry run)" in done.stdout
    assert beectl(node, "get", "-o", "name").stdout == ""


def test_machines_can_read_it(applied: LocalNode) -> None:
    """JSON output is the deployment as the contract has it."""
    assert json.loads(beectl(applied, "get", ID, "-o", "json").stdout)["deploymentId"] == ID


def test_what_is_wrong_with_a_manifest_is_shown_by_line(node: LocalNode, tmp_path: Path) -> None:
    """A wrong field ends with 1 and its file, line, column and name; nothing is deployed."""
    text = (REPOSITORY / "examples/mock.yaml").read_text().replace("image:", "imag:")
    path = tmp_path / "pod.yaml"
    path.write_text(text)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if "imag:" in content)
    done = beectl(node, "apply", "-f", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: INVALID_ARGUMENT MANIFEST_INVALID\n")
    assert f"{path}:{line}:" in done.stderr
    assert "spec.containers[0].imag" in done.stderr
    assert beectl(node, "get", "-o", "name").stdout == ""


def test_what_is_not_there_is_said(node: LocalNode) -> None:
    """A name that nobody has is one clear block and exit code 1; asked to ignore it, delete is content."""
    done = beectl(node, "describe", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: NOT_FOUND DEPLOYMENT_NOT_FOUND\n")
    assert beectl(node, "delete", "nobody").returncode == 1
    assert beectl(node, "delete", "nobody", "--ignore-not-found").returncode == 0


def test_a_node_that_is_not_there_is_said(node: LocalNode, tmp_path: Path) -> None:
    """Where no node answers, the address is named and no stack trace is shown."""
    done = beectl(node, "--address", f"unix:{tmp_path}/none.sock", "get")
    assert done.returncode == 1
    assert f"no node answers at unix:{tmp_path}/none.sock" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_following_quietly(applied: LocalNode) -> None:
    """Ctrl-C ends `logs -f` with 130 and not a word more than the lines."""
    command = [*BEECTL, "logs", ID, "-f"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(applied),
    ) as following:
        assert following.stdout is not None
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=20)
    assert following.returncode == 130
    assert errors.strip() == ""  # a new line, so that the prompt does not stand behind the ^C


def test_a_reader_that_has_enough_is_no_failure_to_report(applied: LocalNode) -> None:
    """When the reader closes the pipe, beectl ends without a stack trace."""
    script = f"{sys.executable} -m services.cli get -o json | head -c 1"
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=REPOSITORY,
        env=environment(applied),
    )
    assert "Traceback" not in done.stderr
