"""Logins out of imagePullSecrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.pods.credentials import Login, logins_for, pull_secrets
from services.errors import FailedPrecondition
from services.manifests import Document, parse

PASSWORD = "s3cret/:word"
POD = {"containers": [{"name": "a", "image": "b"}]}


def manifest(*documents: Mapping[str, object]) -> tuple[Document, ...]:
    """As the engine gets it; a manifest needs something that runs."""
    if all(document["kind"] == "Secret" for document in documents):
        documents = (*documents, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": POD})
    return tuple(parse("\n---\n".join(json.dumps(document) for document in documents)).documents)


def secret(name: str, held: object, *, kind: str = "dockerconfigjson", plain: bool = False) -> dict[str, object]:
    """A Secret with this JSON in it."""
    text = held if isinstance(held, str) else json.dumps(held)
    value = text if plain else base64.b64encode(text.encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": f"kubernetes.io/{kind}",
        "stringData" if plain else "data": {f".{kind}": value},
    }


def entry(username: str) -> dict[str, str]:
    """What docker login writes."""
    return {"auth": base64.b64encode(f"{username}:{PASSWORD}".encode()).decode()}


def users(reference: str, hosts: Mapping[str, str]) -> list[str]:
    """The users that a secret with these hosts has for a reference."""
    held = {"auths": {host: entry(user) for host, user in hosts.items()}}
    return [login.username for login in logins_for(reference, ["s"], manifest(secret("s", held)))]


@pytest.mark.parametrize(
    ("host", "reference", "fits"),
    [
        ("registry.example", "registry.example/a:1", True),
        ("registry.example:5000", "registry.example:5000/a:1", True),
        ("registry.example", "registry.example:5000/a:1", False),
        ("registry.example:5000", "registry.example:5001/a:1", False),
        ("registry.example:5000", "registry.example/a:1", False),
        ("https://registry.example/v1/", "registry.example/a:1", True),
        ("http://registry.example:80/v2", "registry.example:80/a:1", True),
        ("*.example", "registry.example/a:1", True),
        ("*.example", "example/a:1", False),
        ("*.example", "a.b.example/a:1", False),
        ("reg*.example", "registry.example/a:1", True),
        ("registry.example/team", "registry.example/team/a:1", True),
        ("registry.example/team/a", "registry.example/team/a@sha256:0", True),
        ("registry.example/team", "registry.example/teams/a:1", False),
        ("https://index.docker.io/v1/", "docker.io/library/a:1", True),
        ("docker.io", "docker.io/library/a:1", True),
        ("evil.example", "registry.example/a:1", False),
    ],
)
def test_a_login_is_for_its_host_and_port_only(host: str, reference: str, fits: bool) -> None:
    """A login is used where its host, port and path fit, and shown to nobody else."""
    assert users(reference, {host: "me"}) == (["me"] if fits else [])


def test_the_most_exact_path_comes_first() -> None:
    """Several logins of one secret are tried from the most exact to the least."""
    hosts = {"r.example": "all", "r.example/team/app": "app", "r.example/team": "team"}
    assert users("r.example/team/app:1", hosts) == ["app", "team", "all"]


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kind", ["dockerconfigjson", "dockercfg"])
def test_both_formats_are_read(kind: str, plain: bool) -> None:
    """Both types are read, as data and as stringData, and several secrets in the order in which the pod names them."""
    held = {"r.example": {"username": "u", "password": PASSWORD}}
    wrapped = {"auths": held} if kind == "dockerconfigjson" else held
    documents = manifest(
        secret("second", {"auths": {"r.example": entry("other")}}), secret("first", wrapped, kind=kind, plain=plain)
    )
    logins = logins_for("r.example/a:1", ["first", "second", "first"], documents)
    assert logins == (Login(username="u", password=PASSWORD), Login(username="other", password=PASSWORD))


def test_an_identity_token_is_passed_on() -> None:
    """A token that stands for a password goes to podman under its own name."""
    documents = manifest(secret("s", {"auths": {"r.example": {"identitytoken": "tok"}}}))
    (login,) = logins_for("r.example/a:1", ["s"], documents)
    assert json.loads(base64.urlsafe_b64decode(login.header())) == {"identitytoken": "tok"}


@given(username=st.text(max_size=20), password=st.text(max_size=40))
def test_headers_carry_every_password(username: str, password: str) -> None:
    """The header of a login is URL-safe and gives back its user and password."""
    said = json.loads(base64.urlsafe_b64decode(Login(username=username, password=password).header()))
    assert (said.get("username", ""), said.get("password", "")) == (username, password)


def test_secrets_are_shown_nowhere() -> None:
    """A login's representation, and a text that quotes it, are without the password."""
    login = Login(username="u", password=PASSWORD, identity_token="tok")
    assert PASSWORD not in repr(login)
    assert login.hidden_in(f"denied {PASSWORD} and tok") == "denied *** and ***"


@pytest.mark.parametrize(
    "document",
    [
        secret("other", {"auths": {}}),
        secret("s", {"auths": {}}, kind="basic-auth"),
        secret("s", "no JSON " + PASSWORD),
        secret("s", {"auths": {"r.example": {"auth": "Not base64! " + PASSWORD}}}),
        secret("s", {"auths": ["r.example"]}),
        secret("s", {"r.example": entry("u")}),
        secret("s", [1]),
    ],
)
def test_a_secret_without_logins_is_refused(document: dict[str, object]) -> None:
    """A missing secret, another type and broken content are refused by the secret's name, without quoting it."""
    with pytest.raises(FailedPrecondition, match="imagePullSecrets: Secret s ") as caught:
        logins_for("r.example/a:1", ["s"], manifest(document))
    assert caught.value.reason == "IMAGE_PULL_SECRET_INVALID"
    assert PASSWORD not in str(caught.value)


def test_the_secrets_of_pods_and_templates_are_named() -> None:
    """The imagePullSecrets are found in a Pod, and in a Deployment's template."""
    pod = {**POD, "imagePullSecrets": [{"name": "one"}, {"name": "two"}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    }
    assert pull_secrets(manifest({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod})) == (
        "one",
        "two",
    )
    assert pull_secrets(manifest(deployment, secret("s", {"auths": {}}))) == ("one", "two")
