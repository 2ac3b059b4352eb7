"""Logging: a constant event name, facts as keys, one logfmt line each on stderr; no secrets.

Metrics and traces will be imported lazily beside it: they double an idle service's memory.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any


def configure(*, service: str, level: str = "INFO") -> None:
    """Send all logging of this process to stderr; only `__main__` calls it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("rpcudp", "kademlia", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class Log:
    """A named logger whose methods take an event name and facts: `log.info("workload_deployed", workload_id=…)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **facts: object) -> None:
        """For who is looking for a defect."""
        self._logger.debug(event, extra={"facts": facts})

    def info(self, event: str, **facts: object) -> None:
        """Something happened that an operator may want to know."""
        self._logger.info(event, extra={"facts": facts})

    def warning(self, event: str, **facts: object) -> None:
        """Something is wrong and is being dealt with."""
        self._logger.warning(event, extra={"facts": facts})

    def error(self, event: str, *, exc_info: BaseException | None = None, **facts: object) -> None:
        """A defect, or something that needs the operator; `exc_info` adds the stack to the log, never to a client."""
        self._logger.error(event, exc_info=exc_info, extra={"facts": facts})


class _Logfmt(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = f"{stamp}.{int(record.msecs):03d}Z {record.levelname.lower()} {self._service} {record.getMessage()}"
        facts: dict[str, Any] = getattr(record, "facts", {})
        line = " ".join([head, *(f"{key}={_value(value)}" for key, value in facts.items())])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _value(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n\t') else text
