"""Where a request comes from, for limits. What `X-Forwarded-For` says is believed of trusted proxies alone."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import structlog
from aiohttp import web

from sd_gateway.parts import PARTS
from sd_gateway.settings import Network

log = structlog.get_logger(__name__)

_HEADER = "X-Forwarded-For"
#: One household or machine has all of such a network: its single addresses cost nothing.
_IPV6_PREFIX = 64

_Address = IPv4Address | IPv6Address


def client_address(request: web.Request) -> str:
    """The address of the client; of one with IPv6 its /64 network."""
    proxies = request.app[PARTS].settings.trusted_proxies
    forwarded = ",".join(request.headers.getall(_HEADER, []))
    address = forwarded_address(request.remote or "", forwarded, proxies)
    if forwarded and not proxies:
        log.debug("forwarded_address_ignored", hint="set TRUSTED_PROXIES where clients come by a proxy")
    return _counted_as(address)


def connected_address(peer: str, proxies: Sequence[Network]) -> str | None:
    """The address that a connection from `peer` counts for; None where that is a trusted proxy, or has no address."""
    address = _parsed(peer)
    if address is None or any(address in network for network in proxies):
        return None
    return _counted_as(address)


def _counted_as(address: _Address | None) -> str:
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_PREFIX), strict=False))
    return str(address)


def forwarded_address(peer: str, forwarded: str, proxies: Sequence[Network]) -> _Address | None:
    """The last address on the way here that is no trusted proxy's.

    Each proxy appends the address it was asked from: what stands before the first that is not trusted may be made up.
    """
    address = _parsed(peer)
    for entry in reversed(forwarded.split(",") if forwarded else []):
        if address is None or not any(address in network for network in proxies):
            break
        told = _parsed(entry)
        if told is None:
            break
        address = told
    return address


def _parsed(text: str) -> _Address | None:
    """An address, with a port or without. One of IPv4 that is told as IPv6 is one of IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
