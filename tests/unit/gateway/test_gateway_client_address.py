"""Whose address counts, behind proxies and behind those who only say so."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_gateway.http.client_address import forwarded_address

_PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        # Nobody says anything.
        ("203.0.113.7", "", "203.0.113.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        # A stranger says who it is.
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("203.0.113.7", "10.0.0.1, 10.0.0.2", "203.0.113.7"),
        # A proxy of ours does.
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", " 198.51.100.1 , 10.0.0.2", "198.51.100.1"),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        # What the client put before it is not believed.
        ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "10.9.9.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        # With a port.
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::5]:4711", "2001:db8::5"),
        # What is no address is not gone past.
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1,", "10.0.0.1"),
        # Proxies alone.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_the_last_that_is_no_proxy_of_ours_is_the_client(peer: str, forwarded: str, address: str) -> None:
    assert str(forwarded_address(peer, forwarded, _PROXIES)) == address


def test_without_proxies_nothing_is_believed() -> None:
    assert str(forwarded_address("10.0.0.1", "198.51.100.1", [])) == "10.0.0.1"


@given(st.text())
def test_no_header_makes_a_stranger_somebody_else(forwarded: str) -> None:
    assert str(forwarded_address("203.0.113.7", forwarded, _PROXIES)) == "203.0.113.7"


@given(st.text())
def test_no_header_fails(forwarded: str) -> None:
    assert forwarded_address("10.0.0.1", forwarded, _PROXIES) is not None
