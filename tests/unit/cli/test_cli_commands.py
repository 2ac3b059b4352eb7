"""beectl's commands, over a node that only notes what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1.engine_service_pb2 import ComponentStats
from beemesh.engine.v1.workload_pb2 import Component, Workload
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1.types_pb2 import ChangeAction, Manifest, PlannedChange, WatchEventType
from click.testing import CliRunner, Result

from services.cli import commands
from services.cli import session as sessions
from services.cli.group import cli
from services.cli.report import Failure
from services.cli.session import Access
from services.errors import BeemeshError, DeadlineExceeded, FieldViolation, InvalidArgument

commands.load()
COMPOSE = "services:\n  web:\n    image: nginx\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n    - name: c\n      image: i\n"


class Methods:
    """Any method of a service, by name."""

    def __getattr__(self, name: str) -> str:
        return name


class FakeNode:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers: list[Any] = []
        self.orchestrator = self.registry = self.provider = Methods()

    async def call(self, _method: str, request: Any, *, wait: float = 0.0) -> Any:
        self.asked.append(type(request).FromString(request.SerializeToString()))
        answer = self.answers.pop(0)
        if isinstance(answer, BeemeshError):
            raise answer
        return answer

    async def stream(self, _method: str, request: Any) -> AsyncIterator[Any]:
        self.asked.append(request)
        for answer in self.answers.pop(0):
            yield answer


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """A node that beectl reaches instead of a real one."""
    fake = FakeNode()

    def run(_access: Access, body: Any) -> Any:
        import asyncio

        return asyncio.run(body(fake))

    monkeypatch.setattr(sessions, "run", run)
    return fake


def beectl(*arguments: str, stdin: str = "") -> Result:
    """Run beectl in this process."""
    return CliRunner().invoke(cli, arguments, input=stdin)


def applied(state: int, action: int = ChangeAction.CHANGE_ACTION_CREATE) -> pb2.ApplyManifestResponse:
    """An answer to apply."""
    item = pb2.Deployment(deployment_id="a", state=state, decision=pb2.EngineDecision(selected_engine="podman"))  # type: ignore[arg-type]
    return pb2.ApplyManifestResponse(deployment=item, action=action)  # type: ignore[arg-type]


def test_apply_sends_the_text_and_says_what_became_of_it(node: FakeNode) -> None:
    """Apply sends the manifest as it is, waits, and prints one line."""
    node.answers = [applied(pb2.DEPLOYMENT_STATE_ACTIVE)]
    result = beectl("apply", "-f", "-", "--engine", "podman", "--fallback", "none", "--wait", "2m", stdin=POD)
    assert result.stdout == "deployment/a created: ACTIVE on podman\n"
    assert result.exit_code == 0
    (request,) = node.asked
    assert request.manifest.content == POD
    assert (request.engine_id, request.fallback_policy) == ("podman", pb2.FALLBACK_POLICY_NONE)
    assert request.wait.seconds == 120


def test_the_same_again_is_unchanged(node: FakeNode) -> None:
    """A repeat that changes nothing says so."""
    node.answers = [applied(pb2.DEPLOYMENT_STATE_ACTIVE, ChangeAction.CHANGE_ACTION_NONE)]
    assert "deployment/a unchanged" in beectl("apply", "-f", "-", stdin=POD).stdout


def test_apply_that_does_not_come_up_in_time_fails(node: FakeNode) -> None:
    """A deployment that does not run when the wait is over is a failure, with where to look."""
    node.answers = [applied(pb2.DEPLOYMENT_STATE_DEPLOYING)]
    result = beectl("apply", "-f", "-", "--wait", "1s", stdin=POD)
    assert result.exit_code == 1
    assert "beectl describe a" in result.stderr


def test_apply_that_does_not_wait_is_content_with_less(node: FakeNode) -> None:
    """With no wait, being accepted is enough."""
    node.answers = [applied(pb2.DEPLOYMENT_STATE_PENDING)]
    assert beectl("apply", "-f", "-", "--wait", "0", stdin=POD).exit_code == 0
    assert node.asked[0].HasField("wait")


def test_a_bad_manifest_is_shown_by_file_and_line(node: FakeNode, tmp_path: Path) -> None:
    """Each violation is placed in the file that has it, and the next file is applied all the same."""
    (tmp_path / "a.yaml").write_text("bad")
    (tmp_path / "b.yaml").write_text(POD)
    violation = FieldViolation(field_path="spec.x", message="unknown field", line=2, column=3)
    node.answers = [
        InvalidArgument("1 problem", reason="MANIFEST_INVALID", violations=[violation]),
        applied(pb2.DEPLOYMENT_STATE_ACTIVE),
    ]
    result = beectl("apply", "-f", str(tmp_path))
    assert result.exit_code == 1
    assert f"{tmp_path / 'a.yaml'}:2:3: spec.x: unknown field" in result.stderr
    assert "deployment/a created" in result.stdout


def test_a_nameless_compose_file_is_applied_under_its_folders_name(node: FakeNode, tmp_path: Path) -> None:
    """When the node wants a name for a Compose file, the folder's is sent."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "compose.yaml").write_text(COMPOSE)
    node.answers = [
        InvalidArgument("needed", reason="DEPLOYMENT_ID_REQUIRED"),
        applied(pb2.DEPLOYMENT_STATE_ACTIVE),
    ]
    assert beectl("apply", "-f", str(folder / "compose.yaml")).exit_code == 0
    assert [request.deployment_id for request in node.asked] == ["", "compose-shop"]


def test_no_other_manifest_is_given_a_name(node: FakeNode) -> None:
    """A manifest that is no Compose file and has no name is refused as the node refuses it."""
    node.answers = [InvalidArgument("needed", reason="DEPLOYMENT_ID_REQUIRED")]
    result = beectl("apply", "-f", "-", stdin=POD)
    assert result.exit_code == 1
    assert "DEPLOYMENT_ID_REQUIRED" in result.stderr
    assert len(node.asked) == 1


def test_one_id_cannot_name_two_manifests(node: FakeNode, tmp_path: Path) -> None:
    """An id given with several manifests is wrong usage, and nothing is sent."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(POD)
    assert beectl("apply", "-f", str(tmp_path), "--id", "x").exit_code == 2
    assert node.asked == []


def test_all_pages_of_a_list_are_read(node: FakeNode) -> None:
    """A list that comes in pages is printed whole."""
    node.answers = [
        pb2.ListDeploymentsResponse(deployments=[pb2.Deployment(deployment_id="a")], next_page_token="t"),
        pb2.ListDeploymentsResponse(deployments=[pb2.Deployment(deployment_id="b")]),
    ]
    assert beectl("get", "-o", "name").stdout.split() == ["deployments/a", "deployments/b"]
    assert node.asked[1].page_token == "t"


def test_log_lines_of_several_components_say_whose_they_are(node: FakeNode) -> None:
    """Where two containers write, each line begins with its container's name."""
    parts = [Component(component_id="1", display_name="web"), Component(component_id="2", display_name="db")]
    item = pb2.Deployment(instances=[pb2.Instance(workload=Workload(components=parts))])
    response = pb2.StreamDeploymentLogsResponse()
    response.entries.add(component_id="1", text="hello")
    response.entries.add(component_id="2", text="ready")
    node.answers = [pb2.GetDeploymentResponse(deployment=item), [response]]
    assert beectl("logs", "a", "--tail", "0").stdout.splitlines() == ["web | hello", "db | ready"]
    assert node.asked[1].HasField("tail_lines")
    assert node.asked[1].tail_lines == 0


def test_log_lines_of_one_component_are_bare(node: FakeNode) -> None:
    """Where only one container writes, its lines are printed as they are."""
    item = pb2.Deployment(instances=[pb2.Instance(workload=Workload(components=[Component(component_id="1")]))])
    response = pb2.StreamDeploymentLogsResponse()
    response.entries.add(component_id="1", text="hello")
    node.answers = [pb2.GetDeploymentResponse(deployment=item), [response]]
    assert beectl("logs", "a").stdout == "hello\n"
    assert not node.asked[1].HasField("tail_lines")


def test_delete_sends_what_it_was_told(node: FakeNode) -> None:
    """Each flag of delete reaches the node."""
    item = pb2.Deployment(deployment_id="a", state=pb2.DEPLOYMENT_STATE_DELETED)
    node.answers = [pb2.DeleteDeploymentResponse(deployment=item)]
    result = beectl("delete", "a", "--volumes", "--force", "--ignore-not-found")
    assert result.stdout == "deployment/a deleted\n"
    (request,) = node.asked
    assert (request.name, request.remove_volumes, request.force, request.allow_missing) == ("a", True, True, True)


def test_what_is_not_gone_in_time_is_a_failure(node: FakeNode) -> None:
    """A deletion that still goes on when the wait is over ends with 1; without a wait it is content with less."""
    answer = pb2.DeleteDeploymentResponse(
        deployment=pb2.Deployment(deployment_id="a", state=pb2.DEPLOYMENT_STATE_DELETING)
    )
    node.answers = [answer, answer]
    late, accepted = beectl("delete", "deployments/a", "--wait", "1s"), beectl("delete", "deployments/a", "--wait", "0")
    assert (late.exit_code, late.stderr.splitlines()[0]) == (1, "error: a is not gone after 1s")
    assert (accepted.exit_code, accepted.stdout) == (0, "deployment/a deleting\n")


@pytest.mark.parametrize("span", ["soon", "-1s", "1d", "25h", ""])
def test_what_is_no_time_span_is_refused(span: str) -> None:
    """A span that is none, or longer than a day, is wrong usage."""
    assert beectl("apply", "-f", "-", "--wait", span, stdin=POD).exit_code == 2


def test_a_token_goes_only_where_it_was_meant_to_go(tmp_path: Path) -> None:
    """The node's own token file is never sent by itself; a named one is, but not to another machine in clear."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    env = {"BEEMESH_RUN_DIR": str(tmp_path)}
    assert Access().target(env) == f"unix:{tmp_path}/orchestrator.sock"
    assert Access(token_file=token).metadata(env) == ()
    assert Access(address="127.0.0.1:1").metadata(env) == ()
    sent = (("authorization", "Bearer secret"),)
    for address in ("127.0.0.1:1", "[::1]:1", "localhost:1"):
        assert Access(address=address, token_file=token).metadata(env) == sent
    with pytest.raises(Failure, match="--ca"):
        Access(address="node.example:1", token_file=token).metadata(env)
    assert Access(address="node.example:1", token_file=token, root_certificate=token).metadata(env) == sent


def test_help_imports_nothing_heavy() -> None:
    """Asking for help loads neither gRPC nor any message: it is quick."""
    import subprocess
    import sys

    code = (
        "import sys, contextlib\nimport services.cli.__main__\nfrom services.cli.group import cli\n"
        "with contextlib.suppress(SystemExit): cli(['--help'])\n"
        "sys.exit(' '.join(m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'beemesh', 'yaml')) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_fakes_have_what_sessions_have() -> None:
    """The fake offers the same calls as a session."""
    assert {"call", "stream"} <= set(dir(sessions.Session)) & set(dir(FakeNode))


def standing(state: int, **fields: Any) -> pb2.Deployment:
    """A deployment in a state."""
    return pb2.Deployment(deployment_id="a", generation=7, state=state, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "answer", "said"),
    [
        (
            ("stop", "a"),
            pb2.StopDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_STOPPED)),
            "stopped: STOPPED",
        ),
        (
            ("start", "a"),
            pb2.StartDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_ACTIVE)),
            "started: ACTIVE",
        ),
        (
            ("restart", "a"),
            pb2.RestartDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_SUCCEEDED)),
            "restarted: SUCCEEDED",
        ),
        (
            ("reconcile", "a"),
            pb2.ReconcileDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_ACTIVE)),
            "reconciled: ACTIVE",
        ),
        (
            ("orphans", "adopt", "beemesh-a-1"),
            pb2.AdoptOrphanResponse(deployment=standing(pb2.DEPLOYMENT_STATE_ACTIVE)),
            "adopted: ACTIVE",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_verb_says_what_became_of_the_deployment(
    node: FakeNode, arguments: tuple[str, ...], answer: Any, said: str
) -> None:
    """One line with the deployment, what was done and its state."""
    node.answers = [answer]
    result = beectl(*arguments)
    assert (result.exit_code, result.stdout) == (0, f"deployment/a {said}\n")


def test_a_grace_period_is_sent_only_where_one_is_given(node: FakeNode) -> None:
    """Without one the manifest's counts; none at all is one too."""
    stopped = pb2.StopDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_STOPPED))
    node.answers = [stopped, stopped]
    beectl("stop", "a")
    beectl("stop", "a", "--grace", "0")
    assert [request.HasField("grace_period") for request in node.asked] == [False, True]


def test_what_is_started_and_not_ready_is_waited_for(node: FakeNode) -> None:
    """A start ends when all is ready: until then the node is asked to say when, for this generation."""
    node.answers = [
        pb2.StartDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_DEGRADED)),
        pb2.WaitDeploymentResponse(deployment=standing(pb2.DEPLOYMENT_STATE_ACTIVE)),
    ]
    assert beectl("start", "a", "--wait", "5s").stdout == "deployment/a started: ACTIVE\n"
    wait = node.asked[1]
    assert (wait.generation, wait.timeout.seconds) == (7, 5)
    assert list(wait.states) == [pb2.DEPLOYMENT_STATE_ACTIVE, pb2.DEPLOYMENT_STATE_SUCCEEDED]


def test_what_does_not_get_ready_in_time_says_which_and_why(node: FakeNode) -> None:
    """Each component that is not well is named with its reason; the exit code is 1."""
    parts = [
        Component(component_id="1", display_name="web", replica=0, reason="NotReady", message="no answer"),
        Component(component_id="2", display_name="web", replica=1),
    ]
    item = standing(pb2.DEPLOYMENT_STATE_DEGRADED, instances=[pb2.Instance(workload=Workload(components=parts))])
    node.answers = [
        pb2.RestartDeploymentResponse(deployment=item),
        DeadlineExceeded("not yet", reason="WAIT_TIMEOUT"),
    ]
    result = beectl("restart", "a")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: a is not restarted yet",
        "  it is DEGRADED",
        "  0/web: NotReady: no answer",
        "  it goes on; see: beectl describe a",
    ]


def test_drift_is_an_exit_code(node: FakeNode) -> None:
    """0 and a sentence where there is none; 1 and the changes where there is."""
    changed = PlannedChange(action=ChangeAction.CHANGE_ACTION_CREATE, target="pod/a", field_path="", forces="replace")
    node.answers = [pb2.CheckDriftResponse(), pb2.CheckDriftResponse(drifted=True, changes=[changed])]
    none, some = beectl("drift", "a"), beectl("drift", "a")
    assert (none.exit_code, none.stdout) == (0, "deployment/a runs as it was applied\n")
    assert (some.exit_code, some.stdout.splitlines()[1].split()) == (1, ["CREATE", "pod/a", "-", "-", "-", "replace"])


def test_an_export_is_the_manifest_to_the_byte(node: FakeNode) -> None:
    """Nothing is added to the text; what it cannot say goes to stderr."""
    content = "a: é\r\nb: 1"
    answer = pb2.ExportDeploymentResponse(manifest=Manifest(content=content))
    answer.issues.add(field_path="config.env", message="cannot be said")
    node.answers = [answer]
    result = beectl("export", "a", "--live")
    assert result.stdout_bytes == content.encode()
    assert "config.env: cannot be said" in result.stderr
    assert node.asked[0].live


def test_orphans_are_listed_over_all_pages(node: FakeNode) -> None:
    """Every page is read, and engines that cannot say are named on stderr."""
    node.answers = [
        pb2.ListOrphansResponse(workloads=[Workload(workload_id="w1", engine="podman")], next_page_token="t"),
        pb2.ListOrphansResponse(workloads=[Workload(workload_id="w2")], unreachable_engines=["docker"]),
    ]
    result = beectl("orphans", "list")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["WORKLOAD", "w1", "w2"]
    assert "docker" in result.stderr
    assert node.asked[1].page_token == "t"


def test_a_purge_is_a_preview_unless_it_is_forced(node: FakeNode) -> None:
    """Without --force it says what would go, with it what went; name and engine narrow it."""
    found = pb2.PurgeOrphansResponse(purge_count=1, purge_sample=["engines/podman/workloads/w1"])
    node.answers = [found, found]
    preview = beectl("orphans", "purge")
    assert preview.stdout == "engines/podman/workloads/w1 would be removed\n"
    assert "--force" in preview.stderr
    forced = beectl("orphans", "purge", "engines/podman/workloads/w1", "--engine", "podman", "--force")
    assert forced.stdout == "engines/podman/workloads/w1 removed\n"
    assert [(request.force, request.filter) for request in node.asked] == [
        (False, ""),
        (True, 'engine="podman" AND workload_id="w1"'),
    ]


def test_stats_have_a_line_for_each_component(node: FakeNode) -> None:
    """CPU in cores, memory and traffic in units that suit; what is not measured is a dash."""
    parts = [Component(component_id="1", display_name="web", replica=number) for number in (0,)]
    item = pb2.Deployment(instances=[pb2.Instance(workload=Workload(components=parts))])
    stats = ComponentStats(component_id="1", cpu_cores=0.254, memory_bytes=3 << 20, network_rx_bytes=512)
    node.answers = [pb2.GetDeploymentStatsResponse(stats=[stats]), pb2.GetDeploymentResponse(deployment=item)]
    assert beectl("stats", "a").stdout.splitlines()[1].split() == ["web", "0.25", "3", "MiB", "512", "B", "-"]


def test_a_watch_prints_what_is_new(node: FakeNode) -> None:
    """Each change that shows is a line; one that shows nothing new is none."""
    active, failed = standing(pb2.DEPLOYMENT_STATE_ACTIVE), standing(pb2.DEPLOYMENT_STATE_FAILED, state_message="why")
    node.answers = [[pb2.WatchDeploymentsResponse(deployment=item) for item in (active, active, failed)]]
    lines = [line.split()[1:3] for line in beectl("watch").stdout.splitlines()]
    assert lines == [["NAME", "STATE"], ["a", "ACTIVE"], ["a", "FAILED"]]


def test_a_watch_of_nobody_says_so_and_goes_on(node: FakeNode) -> None:
    """A name that is not there (yet) is said once all is known."""
    node.answers = [[pb2.WatchDeploymentsResponse(type=WatchEventType.WATCH_EVENT_TYPE_SYNCED)]]
    assert "no deployment a yet" in beectl("watch", "a").stderr


def test_exec_without_a_command_is_wrong_usage(node: FakeNode) -> None:
    """Nothing is sent; nor is anything with -i and -t where nobody types."""
    assert beectl("exec", "a").exit_code == 2
    assert beectl("exec", "-it", "a", "--", "sh").exit_code == 2
    assert node.asked == []
