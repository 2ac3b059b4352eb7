"""Verbs of the contract that a servicer does not have yet: they answer UNIMPLEMENTED, with our ErrorInfo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import ServiceDescriptor

from services.errors import Unimplemented

C = TypeVar("C", bound=type[Any])


def unfinished(service: ServiceDescriptor) -> Callable[[C], C]:
    """A class decorator: every method of the service that the class itself does not define answers UNIMPLEMENTED."""

    def fill(cls: C) -> C:
        for method in service.methods:
            if method.name not in vars(cls):
                setattr(cls, method.name, (_stream if method.server_streaming else _unary)(method.full_name))
        return cls

    return fill


def _unary(name: str) -> Any:
    async def refuse(self: Any, request: Any, context: Any) -> Any:
        raise _error(name)

    return refuse


def _stream(name: str) -> Any:
    async def refuse(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        raise _error(name)
        yield  # an async generator, as every streaming handler

    return refuse


def _error(name: str) -> Unimplemented:
    return Unimplemented(f"{name} is not there yet", reason="UNSUPPORTED_VERB", metadata={"verb": name})
