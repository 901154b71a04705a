"""Which addresses are of the public internet. All others lead to machines that trust where a request comes from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network: leads to the host itself
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind a provider's NAT; some clouds' metadata
            "127.0.0.0/8",
            "168.63.129.16/32",  # Azure's, which answers its machines alone
            "169.254.0.0/16",  # link-local; most clouds' metadata
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
#: The only block that public addresses are given out of. Outside of it are the loopback, link-local, private and
#: multicast, and those that hold an IPv4 address: mapped ones and NAT64.
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols: Teredo, which holds an IPv4 address, and others
            "2001:db8::/32",
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",
        ),
    )
)


def is_public(text: str) -> bool:
    """Whether `text` is an address of the public internet. False for what is not an address, and for one with a
    zone."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return False
    return not any(address in network for network in _NOT_PUBLIC_V6)
