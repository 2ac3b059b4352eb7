"""Every id of the system, in one place: how it is made, how it is checked, which labels carry it.

The page that explains them is docs/adr/0002-identities.md. Nothing else in the project invents an id.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.errors import FieldViolation, InvalidArgument

DEPLOYMENT_ID_MAX = 40
"""Longest deployment id, so that `<workload_id>-<n>` stays within the 63 characters of a DNS label."""

LABEL_NODE_ID = "beemesh.io/node-id"
LABEL_DEPLOYMENT_ID = "beemesh.io/deployment-id"
LABEL_WORKLOAD_ID = "beemesh.io/workload-id"
LABEL_MANIFEST_HASH = "beemesh.io/manifest-hash"

_NODE_ID = re.compile(r"[0-9a-f]{40}")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NODE_DOMAIN = b"beemesh/v1/node\0"
_MANIFEST_DOMAIN = b"beemesh/v1/manifest\0"
_HASH_LABEL_LENGTH = 16


def node_id(public_key: bytes) -> str:
    """The node's id: 40 hex digits of the hash of its raw Ed25519 public key (32 bytes)."""
    if len(public_key) != 32:
        raise ValueError(f"an Ed25519 public key has 32 bytes, not {len(public_key)}")
    return hashlib.sha256(_NODE_DOMAIN + public_key).digest()[:20].hex()


def check_node_id(text: str) -> str:
    """Return `text` if it is a node id; raise InvalidArgument otherwise."""
    if not _NODE_ID.fullmatch(text):
        raise InvalidArgument(
            f"node id {text!r}: expected 40 lower-case hex digits",
            reason="BAD_NODE_ID",
            violations=[FieldViolation(field_path="node_id", message="expected 40 lower-case hex digits")],
        )
    return text


def check_deployment_id(text: str, *, field: str = "deployment_id") -> str:
    """Return `text` if it can name a deployment (DNS-1123 label, at most 40 characters); raise InvalidArgument."""
    if len(text) > DEPLOYMENT_ID_MAX or not _DNS_1123.fullmatch(text):
        raise InvalidArgument(
            f"{field} {text[:80]!r}: expected at most {DEPLOYMENT_ID_MAX} characters of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit",
            reason="BAD_DEPLOYMENT_ID",
            violations=[FieldViolation(field_path=field, message=f"not a DNS-1123 label of ≤ {DEPLOYMENT_ID_MAX}")],
        )
    return text


def default_deployment_id(*, kind: str, namespace: str, name: str) -> str:
    """The id of a deployment whose client gave none: `<kind>-<namespace>-<name>`; Compose: `compose-<name>`.

    Raises InvalidArgument when the manifest has no name, or the id would be too long: the client must then name it.
    """
    if not name:
        raise InvalidArgument(
            "deployment_id is needed: the manifest has no name",
            reason="DEPLOYMENT_ID_REQUIRED",
            violations=[
                FieldViolation(field_path="deployment_id", message="the manifest has no name to derive it from")
            ],
        )
    parts = [kind, name] if kind.lower() == "compose" else [kind, namespace, name]
    return check_deployment_id("-".join(parts).lower())


def workload_id(*, node: str, deployment: str) -> str:
    """The id of a deployment's part on one node: the same over retries, engines and revisions."""
    return f"beemesh-{deployment}-{hashlib.sha256(f'{node}/{deployment}'.encode()).hexdigest()[:8]}"


def replica_name(workload: str, replica: int) -> str:
    """The backend's name of one replica (pod, domain): `<workload_id>-<n>`, n from 0."""
    return f"{workload}-{replica}"


def manifest_key(manifest: str) -> bytes:
    """The 20-byte DHT key under which the providers of a manifest id (= deployment id) are found."""
    return hashlib.sha256(_MANIFEST_DOMAIN + manifest.encode()).digest()[:20]


def canonical_digest(manifest_digest: str, config: Mapping[str, object]) -> str:
    """The digest that alone decides "nothing changed": of the manifest's canonical digest and the config that counts.

    `config` is JSON-shaped; unset and empty entries (None, "", {}, []) do not count.
    """
    counted = {key: value for key, value in config.items() if value not in (None, "", {}, [], ())}
    text = json.dumps({"manifest": manifest_digest, "config": counted}, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def bare(name: str, collection: str) -> str:
    """The id in a resource name: `deployments/web` and `web` both give `web`."""
    return name.removeprefix(collection + "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose a backend object is; every pod, container, network, volume, domain and directory carries it."""

    node_id: str
    deployment_id: str
    workload_id: str
    manifest_hash: str
    """The canonical digest, `sha256:<hex>`; the label holds its first 16 hex digits."""

    def labels(self) -> dict[str, str]:
        """The backend labels."""
        return {
            LABEL_NODE_ID: self.node_id,
            LABEL_DEPLOYMENT_ID: self.deployment_id,
            LABEL_WORKLOAD_ID: self.workload_id,
            LABEL_MANIFEST_HASH: hash_label(self.manifest_hash),
        }


def hash_label(canonical_digest: str) -> str:
    """The label value of a canonical digest: label values end at 63 characters, `sha256:<hex>` has 71."""
    return canonical_digest.removeprefix("sha256:")[:_HASH_LABEL_LENGTH]


def owned_by(labels: Mapping[str, str], node: str) -> bool:
    """Whether these backend labels are this node's."""
    return labels.get(LABEL_NODE_ID) == node and LABEL_WORKLOAD_ID in labels
