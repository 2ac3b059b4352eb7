"""The workload that the conformance suite deploys to engines that run containers, in each of their formats."""

from __future__ import annotations

from services.manifests import Format
from tests.harness.docker import IMAGE

_POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: {name}
spec:
  containers:
  - name: main
    image: {image}
    command:
    - sh
    - -c
    - |
      for line in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "{word} $line"; done
      trap 'exit 0' TERM
      while :; do sleep 0.1; done
"""

_COMPOSE = """\
name: {name}
services:
  main:
    image: {image}
    command:
    - sh
    - -c
    - |
      for line in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "{word} $$line"; done
      trap 'exit 0' TERM
      while :; do sleep 0.1; done
"""

_TEXTS = {Format.KUBERNETES: _POD, Format.COMPOSE: _COMPOSE}


def written(format_: Format, name: str, word: str) -> str:
    """It counts to twelve in this word, then waits for its end."""
    return _TEXTS[format_].format(name=name, image=IMAGE, word=word)
