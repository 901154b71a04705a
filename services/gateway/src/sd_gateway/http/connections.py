"""How many connections each address has: without a bound, one client could take all files that the process may open."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import structlog

from sd_gateway.http.client_address import connected_address
from sd_gateway.settings import Network

log = structlog.get_logger(__name__)

#: Seconds between two lines of refused connections.
_TELL_EVERY_S = 60.0


class ConnectionsOfAddresses:
    """Open connections by address; those of trusted proxies, which bring many clients, do not count."""

    def __init__(self, max_per_address: int, proxies: Sequence[Network]) -> None:
        self._max_per_address = max_per_address
        self._proxies = proxies
        self._tells_at = 0.0
        self._num_open: Counter[str | None] = Counter()

    def admit(self, peer: str) -> bool:
        """Count a connection, unless its address has as many as it may."""
        address = connected_address(peer, self._proxies)
        if address is not None and self._num_open[address] >= self._max_per_address:
            if time.monotonic() >= self._tells_at:
                self._tells_at = time.monotonic() + _TELL_EVERY_S
                log.warning("connection_refused", address=address, hint="a proxy's goes into TRUSTED_PROXIES")
            return False
        self._num_open[address] += 1
        return True

    def leave(self, peer: str) -> None:
        """Count it no more."""
        address = connected_address(peer, self._proxies)
        self._num_open[address] -= 1
        if not self._num_open[address]:
            del self._num_open[address]
