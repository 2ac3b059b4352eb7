"""What the `beemesh.io/*` annotations may say, wherever a format has them."""

from __future__ import annotations

import pytest

from services.manifests import parse
from tests.unit.manifests.samples import COMPOSE, DEPLOYMENT, FUNCTION, MACHINE, POD, found, the_violation

KEYS = {
    "fallback-policy": ("sometimes", "BAD_FALLBACK_POLICY"),
    "drift-policy": ("ignore", "BAD_VALUE"),
    "runtime-engine": ("x" * 64, "BAD_VALUE"),
    "resources.cpu": ("many", "BAD_VALUE"),
    "resources.memory": ("plenty", "BAD_VALUE"),
}

BARE_POD = POD.replace('    beemesh.io/runtime-engine: "podman"\n', "")
IN_METADATA = {
    "Pod": BARE_POD,
    "VirtualMachine": MACHINE.replace('    beemesh.io/runtime-engine: "qemu"\n', ""),
    "Function": FUNCTION.replace('    beemesh.io/runtime-engine: "wasm"\n', ""),
}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", IN_METADATA)
def test_what_an_annotation_cannot_mean_is_refused_at_its_line(kind: str, key: str) -> None:
    """Path and line of the value, in each kind that has metadata."""
    value, reason = KEYS[key]
    head, tail = IN_METADATA[kind].split("  annotations:\n")
    text = f'{head}  annotations:\n    beemesh.io/{key}: "{value}"\n{tail}'
    assert found(text) == [(f'metadata.annotations["beemesh.io/{key}"]', 6, reason)]


@pytest.mark.parametrize("key", KEYS)
def test_a_compose_file_and_a_template_say_it_at_their_own_place(key: str) -> None:
    """Compose has annotations under `x-beemesh`; a Deployment's template counts where its metadata is silent."""
    value, reason = KEYS[key]
    compose = f'{COMPOSE}x-beemesh:\n  annotations:\n    beemesh.io/{key}: "{value}"\n'
    assert found(compose) == [(f'x-beemesh.annotations["beemesh.io/{key}"]', 9, reason)]
    labels = "      labels: {app: shop, tier: front}\n"
    template = DEPLOYMENT.replace(labels, f'{labels}      annotations:\n        beemesh.io/{key}: "{value}"\n')
    assert found(template) == [(f'spec.template.metadata.annotations["beemesh.io/{key}"]', 14, reason)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fallback-policy", "compatible"),
        ("fallback-policy", " ANY "),
        ("drift-policy", "Report"),
        ("runtime-engine", "quantum"),
        ("runtime-engine", ""),
        ("somebody-elses", "anything"),
    ],
)
def test_what_can_be_understood_passes_as_written(key: str, value: str) -> None:
    """Choices in any case; an engine that nobody knows is for the choice of the engine to tell of."""
    text = BARE_POD.replace("  annotations:\n", f'  annotations:\n    beemesh.io/{key}: "{value}"\n')
    assert parse(text).annotations == {f"beemesh.io/{key}": value}


def test_a_refusal_says_what_would_be_right() -> None:
    """The choices are named, and what was given is shown: shortened, and with escapes for what is no print."""
    policy = POD.replace("runtime-engine", "fallback-policy").replace("podman", "x" * 500)
    message = the_violation(policy).message
    assert message.startswith('must be NONE, COMPATIBLE or ANY, is "xxx')
    assert len(message) < 120
    engine = the_violation(POD.replace("podman", "a\\eb"))
    assert engine.message.endswith('not "a\\x1bb"')
