"""The ids of the system."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.identity import (
    DEPLOYMENT_ID_MAX,
    Ownership,
    bare,
    canonical_digest,
    check_deployment_id,
    check_node_id,
    default_deployment_id,
    manifest_key,
    node_id,
    owned_by,
    replica_name,
    workload_id,
)

NODE = "0123456789abcdef0123456789abcdef01234567"
DEPLOYMENTS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
NODES = st.text("0123456789abcdef", min_size=40, max_size=40)


def test_ids_are_what_they_were() -> None:
    """These values are on disks, in labels and in the DHT: a change of any of them is a break."""
    assert node_id(bytes(32)) == "959665f6d915057a41dfa6d36768e032e72dfb0e"
    assert workload_id(node=NODE, deployment="web") == "beemesh-web-46ab8178"
    assert manifest_key("web") == hashlib.sha256(b"beemesh/v1/manifest\0web").digest()[:20]
    assert replica_name("beemesh-web-46ab8178", 2) == "beemesh-web-46ab8178-2"


def test_a_node_id_is_of_a_key_of_the_right_length() -> None:
    """A key of another length is a defect of the caller; the id of a right one is a node id."""
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        node_id(bytes(31))
    assert check_node_id(node_id(bytes(32))) == node_id(bytes(32))


@pytest.mark.parametrize("text", ["", NODE[1:], NODE + "0", NODE.upper(), NODE[:-1] + "g", NODE + "\n"])
def test_what_is_no_node_id_is_refused(text: str) -> None:
    """Anything but 40 lower-case hex digits is an invalid argument."""
    with pytest.raises(InvalidArgument) as caught:
        check_node_id(text)
    assert caught.value.reason == "BAD_NODE_ID"


@given(DEPLOYMENTS)
def test_a_deployment_id_is_a_dns_label(text: str) -> None:
    """Every DNS-1123 label of at most 40 characters can name a deployment."""
    assert check_deployment_id(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "ä", "a b", "a\n", "a" * 41])
def test_what_is_no_deployment_id_is_refused(text: str) -> None:
    """Anything else is an invalid argument that names the field that was asked for."""
    with pytest.raises(InvalidArgument) as caught:
        check_deployment_id(text, field="manifest.metadata.name")
    assert caught.value.violations[0].field_path == "manifest.metadata.name"


@given(node=NODES, deployment=DEPLOYMENTS, replica=st.integers(0, 999))
def test_every_name_made_of_a_deployment_fits_a_dns_label(node: str, deployment: str, replica: int) -> None:
    """Workload id and replica name are DNS labels of at most 63 characters, for the longest deployment id too."""
    workload = workload_id(node=node, deployment=deployment)
    name = replica_name(workload, replica)
    assert workload.startswith(f"beemesh-{deployment}-")
    assert len(name) <= 63
    assert set(name) <= set(string.ascii_lowercase + string.digits + "-")


@given(nodes=st.tuples(NODES, NODES), deployments=st.tuples(DEPLOYMENTS, DEPLOYMENTS))
def test_the_workload_id_tells_nodes_and_deployments_apart(
    nodes: tuple[str, str], deployments: tuple[str, str]
) -> None:
    """Same node and deployment, same workload id, over any number of tries; another of either, another id."""
    ids = [workload_id(node=node, deployment=deployment) for node in nodes for deployment in deployments]
    assert ids == [workload_id(node=node, deployment=deployment) for node in nodes for deployment in deployments]
    assert len(set(ids)) == len(set(nodes)) * len(set(deployments))


def test_a_deployment_is_named_after_its_first_document() -> None:
    """Kubernetes: kind, namespace, name; Compose: its project name; both in lower case."""
    assert default_deployment_id(kind="Pod", namespace="default", name="Web") == "pod-default-web"
    assert default_deployment_id(kind="Compose", namespace="", name="shop") == "compose-shop"
    assert default_deployment_id(kind="VirtualMachine", namespace="default", name="db") == "virtualmachine-default-db"


def test_a_deployment_without_a_usable_name_must_be_named() -> None:
    """No name, or one that makes the id too long, is an invalid argument that asks for deployment_id."""
    with pytest.raises(InvalidArgument) as caught:
        default_deployment_id(kind="Pod", namespace="default", name="")
    assert (caught.value.reason, caught.value.violations[0].field_path) == ("DEPLOYMENT_ID_REQUIRED", "deployment_id")
    with pytest.raises(InvalidArgument) as caught:
        default_deployment_id(kind="Pod", namespace="default", name="x" * DEPLOYMENT_ID_MAX)
    assert caught.value.reason == "BAD_DEPLOYMENT_ID"


@given(
    st.dictionaries(
        st.sampled_from(["replicas", "env", "options"]),
        st.one_of(st.none(), st.integers(1, 5), st.dictionaries(st.sampled_from("ab"), st.text(max_size=3))),
    )
)
def test_the_canonical_digest_is_blind_to_order_and_to_what_is_unset(config: dict[str, object]) -> None:
    """The order of keys and empty entries do not count; what is set does."""
    digest = canonical_digest("sha256:m", config)
    assert digest == canonical_digest("sha256:m", dict(reversed(config.items())))
    assert digest == canonical_digest("sha256:m", config | {"more": None, "text": "", "list": [], "map": {}})
    assert digest != canonical_digest("sha256:m", config | {"more": 1})
    assert digest != canonical_digest("sha256:n", config)


def test_a_zero_counts() -> None:
    """0 replicas are something that was asked for, unlike none at all."""
    assert canonical_digest("m", {"replicas": 0}) != canonical_digest("m", {})
    assert canonical_digest("m", {"flag": False}) != canonical_digest("m", {})


def test_a_name_and_the_bare_id_are_both_accepted() -> None:
    """`deployments/web` and `web` are the same; another collection's name stays what it is."""
    assert bare("deployments/web", "deployments") == bare("web", "deployments") == "web"
    assert bare("engines/web", "deployments") == "engines/web"


def test_what_a_node_made_is_its_own() -> None:
    """The labels of an object name its owner in values that backends accept, and only that owner sees it as its own."""
    digest = canonical_digest("sha256:m", {})
    ownership = Ownership(
        node_id=NODE,
        deployment_id="web",
        workload_id=workload_id(node=NODE, deployment="web"),
        manifest_hash=digest,
    )
    labels = ownership.labels()
    assert labels["beemesh.io/manifest-hash"] == digest.removeprefix("sha256:")[:16]
    assert all(len(value) <= 63 for value in labels.values())
    assert owned_by(labels, NODE)
    assert not owned_by(labels, NODE[::-1])
    assert not owned_by({"beemesh.io/node-id": NODE}, NODE)
    assert not owned_by({}, NODE)
