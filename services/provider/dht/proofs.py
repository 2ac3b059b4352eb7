"""Proofs that an address receives what is sent to it: tokens, and the addresses that showed it. Pure."""

from __future__ import annotations

import hmac
from collections import OrderedDict

TOKEN_SIZE = 8

Address = tuple[str, int]

_EPOCH_SECONDS = 300
_PROVEN_SECONDS = 300.0
_PROVEN_MAX = 4_096


class Tokens:
    """Tokens for one address and key, good for five to ten minutes; nothing is kept per token (BEP 5)."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, host: str, key: bytes, now: float) -> bytes:
        """The token of this moment; `now` in seconds."""
        return self._token(host, key, int(now // _EPOCH_SECONDS))

    def holds(self, token: bytes, host: str, key: bytes, now: float) -> bool:
        """Whether it was issued for them in this or the last epoch."""
        epoch = int(now // _EPOCH_SECONDS)
        return any(hmac.compare_digest(token, self._token(host, key, e)) for e in (epoch, epoch - 1))

    def _token(self, host: str, key: bytes, epoch: int) -> bytes:
        text = b"%d\0%s\0%s" % (epoch, host.encode(), key)
        return hmac.digest(self._secret, text, "sha256")[:TOKEN_SIZE]


class Proven:
    """Addresses that answered us lately; bounded, the longest unseen is forgotten first."""

    def __init__(self) -> None:
        self._until: OrderedDict[Address, float] = OrderedDict()

    def add(self, address: Address, now: float) -> None:
        """It answered."""
        self._until[address] = now + _PROVEN_SECONDS
        self._until.move_to_end(address)
        if len(self._until) > _PROVEN_MAX:
            self._until.popitem(last=False)

    def holds(self, address: Address, now: float) -> bool:
        """Whether it did."""
        return self._until.get(address, 0.0) > now
