"""Which addresses a server may listen on."""

from __future__ import annotations

import pytest

from services.errors import FailedPrecondition
from services.rpc.server import check_exposure

OPEN = [
    "0.0.0.0:7443",
    "[::]:7443",
    "192.0.2.1:7443",
    "0.0.0.0:0",
    "example.com:1",
    "[::ffff:192.0.2.1]:1",
    "*:1",
    ":1",
]
CLOSED = ["127.0.0.1:7443", "127.8.9.1:0", "[::1]:7443", "localhost:7443", "unix:/run/beemesh/x.sock"]
SLY = [
    "127.0.0.1",
    "",
    "127.0.0.1.example.com:1",
    "127.0.0.1:1,0.0.0.0:1",
    "localhost.example.com:1",
    "[::1]",
    "127.1:1",
]


@pytest.mark.parametrize("address", OPEN + SLY)
def test_an_address_that_others_can_reach_needs_tls_and_a_token(address: str) -> None:
    """Without both it is refused, saying so; with both it is allowed."""
    for tls, token in ((False, False), (True, False), (False, True)):
        with pytest.raises(FailedPrecondition) as caught:
            check_exposure(address, tls=tls, token=token)
        assert caught.value.reason == "ADDRESS_NEEDS_TLS_AND_TOKEN"
    check_exposure(address, tls=True, token=True)


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_of_this_machine_alone_needs_nothing(address: str) -> None:
    """Loopback and Unix sockets are allowed as they are."""
    check_exposure(address, tls=False, token=False)
