"""Which addresses an upstream's name may lead to: public ones of the internet, and nothing else."""

from __future__ import annotations

import ipaddress

_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        # A cloud's metadata service behind an address that looks public.
        "168.63.129.16/32",
    )
)  # fmt: skip
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All that is handed out; v4-mapped, NAT64, unique local, link-local, multicast and loopback lie outside."""
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(text)
    # The IETF's own with Teredo and ORCHID, documentation twice, and 6to4, which hides any IPv4 address.
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def is_public(text: str) -> bool:
    """Tell whether an address may be connected to; what cannot be read may not."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)


def is_loopback(text: str) -> bool:
    """Tell whether this is a literal address of this very machine, as doubles in tests have."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
