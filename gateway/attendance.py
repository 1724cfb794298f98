"""How many connections there are by where they come from. Pure; belongs to one event loop."""

import ipaddress
from collections import Counter
from typing import Final

from commitcast.gateway.access import is_loopback
from commitcast.gateway.limits import Limits

TOLD: Final = 2
"""Up to twice as many as are served get in, to be told why they are not; what is beyond is not worth an answer."""
_IPV6_NETWORK_BITS: Final = 64
"""What one customer of a provider has at the least: its addresses are counted as one, since there are 2^64 of them."""


class Attendance:
    """Counts connections, and knows what one address may have."""

    def __init__(self, limits: Limits) -> None:
        self.counts: Counter[str] = Counter()
        """Of each address, or network, that has any."""
        self._limits = limits

    def enter(self, address: str) -> bool:
        """Count a connection; return False if its address has so many that it is not worth an answer."""
        origin = origin_of(address)
        self.counts[origin] += 1
        return self.counts[origin] <= TOLD * self._limit_of(origin)

    def leave(self, address: str) -> None:
        """Count it no longer."""
        origin = origin_of(address)
        self.counts[origin] -= 1
        if not self.counts[origin]:
            del self.counts[origin]

    def exceeds(self, address: str) -> bool:
        """Whether an address has more connections than are served."""
        origin = origin_of(address)
        return self.counts[origin] > self._limit_of(origin)

    def _limit_of(self, origin: str) -> int:
        return self._limits.connections_from(is_local=is_loopback(origin))


def origin_of(address: str) -> str:
    """Return what an address is counted as: itself, or the network of an IPv6 address that is not this machine's."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:  # a name that an ASGI server gives
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return address
    return str(ipaddress.IPv6Network((int(parsed), _IPV6_NETWORK_BITS), strict=False))
