"""beectl's commands, over a node that only notes what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from beemesh.engine.v1.workload_pb2 import Component, Workload
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb2
from beemesh.type.v1.types_pb2 import ChangeAction
from click.testing import CliRunner, Result

from services.cli import commands
from services.cli import session as sessions
from services.cli.group import cli
from services.cli.report import Failure
from services.cli.session import Access
from services.errors import BeemeshError, FieldViolation, InvalidArgument

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
