"""Connections counted by where they come from. Pure; belongs to one event loop."""

import ipaddress
from collections import Counter
from typing import Final

from commitcast.gateway.server.access.limits import Limits
from commitcast.gateway.server.access.origins import is_loopback

DROPPED_BEYOND: Final = 2
"""Times the limit: connections between the limit and this are told why they are closed, those beyond are dropped."""
_IPV6_NETWORK_BITS: Final = 64
"""What one line is given at the least; its 2^64 addresses are counted as one."""


class ConnectionCounts:
    """Counts connections, and compares them with what one address may have."""

    def __init__(self, limits: Limits) -> None:
        self.by_origin: Counter[str] = Counter()
        """Of each address, or network, that has any."""
        self._limits = limits

    def enter(self, address: str) -> bool:
        """Count a connection; False if its address is so far over the limit that it should be dropped unanswered."""
        origin = origin_of(address)
        self.by_origin[origin] += 1
        return self.by_origin[origin] <= DROPPED_BEYOND * self._limit_of(origin)

    def leave(self, address: str) -> None:
        """Count it no longer."""
        origin = origin_of(address)
        self.by_origin[origin] -= 1
        if not self.by_origin[origin]:
            del self.by_origin[origin]

    def exceeds(self, address: str) -> bool:
        """Whether an address has more connections than are served."""
        origin = origin_of(address)
        return self.by_origin[origin] > self._limit_of(origin)

    def _limit_of(self, origin: str) -> int:
        return self._limits.connections_from(is_local=is_loopback(origin))


def origin_of(address: str) -> str:
    """Return what an address is counted as: itself; of IPv6 the network of 64 bits, but for this machine's own."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a name that an ASGI server gives
        return address
    if not isinstance(parsed, ipaddress.IPv6Address) or parsed.is_loopback:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_NETWORK_BITS), strict=False))
