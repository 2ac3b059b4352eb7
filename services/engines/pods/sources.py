"""The ConfigMaps, Secrets and claims of a manifest, as what refers to them finds them. Pure.

Values of Secrets are in here: nothing in this module makes text for people out of a value.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from services.manifests import Document, Manifest

Data = Mapping[str, bytes]


class Sources:
    """What a pod of the manifest may refer to; names are looked up in the pod's namespace."""

    def __init__(self, manifest: Manifest) -> None:
        self._documents = {(each.kind, each.namespace, each.name): each for each in manifest.documents}

    def config_map(self, namespace: str, name: str) -> Data | None:
        """The entries of a ConfigMap, or None when the manifest has none of this name."""
        document = self._documents.get(("ConfigMap", namespace, name))
        if document is None:
            return None
        return {**_texts(document.body.get("data")), **_decoded(document.body.get("binaryData"))}

    def secret(self, namespace: str, name: str) -> Data | None:
        """The entries of a Secret, decoded; `stringData` wins."""
        document = self._documents.get(("Secret", namespace, name))
        if document is None:
            return None
        return {**_decoded(document.body.get("data")), **_texts(document.body.get("stringData"))}

    def claim(self, namespace: str, name: str) -> Document | None:
        """The PersistentVolumeClaim of this name."""
        return self._documents.get(("PersistentVolumeClaim", namespace, name))


def _texts(entries: Mapping[str, Any] | None) -> dict[str, bytes]:
    return {key: str(value).encode("utf-8", "surrogatepass") for key, value in (entries or {}).items()}


def _decoded(entries: Mapping[str, Any] | None) -> dict[str, bytes]:
    return {key: base64.b64decode(str(value)) for key, value in (entries or {}).items()}
