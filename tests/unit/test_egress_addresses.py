"""Which addresses an upstream's name may lead to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.egress.addresses import is_loopback, is_public

REFUSED = {
    "this network": "0.0.0.0",  # noqa: S104 - asked about, not listened on
    "private 10": "10.1.2.3",
    "private 172": "172.31.255.255",
    "private 192": "192.168.0.1",
    "carrier's": "100.64.0.1",
    "carrier's last": "100.127.255.254",
    "loopback": "127.0.0.1",
    "another loopback": "127.9.9.9",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "metadata in the carrier's range": "100.100.100.200",
    "metadata that looks public": "168.63.129.16",
    "metadata in the protocol range": "192.0.0.192",
    "documentation": "203.0.113.5",
    "benchmarks": "198.19.0.1",
    "6to4 relay": "192.88.99.1",
    "multicast": "224.0.0.1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified 6": "::",
    "loopback 6": "::1",
    "v4-mapped": "::ffff:8.8.8.8",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-compatible": "::8.8.8.8",
    "v4-translated": "::ffff:0:8.8.8.8",
    "nat64": "64:ff9b::8.8.8.8",
    "local nat64": "64:ff9b:1::1",
    "discard": "100::1",
    "link-local 6": "fe80::1",
    "link-local with a zone": "fe80::1%eth0",
    "public with a zone": "2606:4700::1%eth0",
    "site-local": "fec0::1",
    "unique local": "fd12:3456::1",
    "metadata 6": "fd00:ec2::254",
    "multicast 6": "ff02::1",
    "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "orchid": "2001:20::1",
    "documentation 6": "2001:db8::1",
    "new documentation 6": "3fff::1",
    "6to4": "2002:7f00:1::1",
    "not handed out": "4000::1",
    "a name": "localhost",
    "short form": "127.1",
    "a number": "2130706433",
    "octal": "0177.0.0.1",
    "hexadecimal": "0x7f.0.0.1",
    "in brackets": "[::1]",
    "nothing": "",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_public_is_refused(kind: str) -> None:
    assert not is_public(REFUSED[kind])


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00::1"],
)
def test_what_is_public_is_allowed(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_nothing_that_python_knows_to_be_special_is_allowed(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(str(address))
    if address.is_reserved or address.is_unspecified or not address.is_global:
        assert not is_public(str(address))


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_reached_in_the_clothes_of_ipv6(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for disguise in (
        ipaddress.IPv6Address(0xFFFF << 32 | number),
        ipaddress.IPv6Address(number),
        ipaddress.IPv6Address(0x64FF9B << 96 | number),
        ipaddress.IPv6Address(0x2002 << 112 | number << 80),
    ):
        assert not is_public(str(disguise))


def test_loopback_is_only_what_is_written_as_an_address() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("localhost")
    assert not is_loopback("10.0.0.1")
