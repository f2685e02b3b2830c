"""Where webhooks may go: every kind of address that isn't of the public internet is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.webhook_urls import is_public, target_of

NOT_PUBLIC = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",  # noqa: S104 - compared, not bound
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "100::1",
    "5f00::1",
)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:4700::1111", "::ffff:1.1.1.1"]
)
def test_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(str(address)) or (address.version == 6 and address.ipv4_mapped is not None)


@given(st.ip_addresses(v=4))
def test_a_mapped_address_is_what_it_maps(address: ipaddress.IPv4Address) -> None:
    assert is_public(f"::ffff:{address}") == is_public(str(address))


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        "",
        "receiver.example",
        "ftp://receiver.example/",
        "http://receiver.example/",
        "//receiver.example/",
        "https://",
        "https:///path",
        "https://user@receiver.example/",
        "https://user:secret@receiver.example/",
        "https://receiver.example@10.0.0.1/",
        "https://receiver.example/#part",
        "https://receiver.example/a b",
        "https://receiver.example/\r\nX: y",
        "https://receiver.example\\@10.0.0.1/",
        "https://receiver.example:0/",
        "https://receiver.example:99999/",
        "https://receiver.example:x/",
        "https://[::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://api.localhost/",
        "https://exämple.org/",
        "https://a..b!/",
        "https://" + "a" * 2_000,
    ],
)
def test_urls_that_are_refused(url: object) -> None:
    with pytest.raises(ValueError, match="Must"):
        target_of(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "header"),
    [
        ("https://receiver.example", "receiver.example", 443, "/", "receiver.example"),
        ("https://Receiver.Example:8443/a?b=c", "receiver.example", 8443, "/a?b=c", "receiver.example:8443"),
        ("https://1.1.1.1/", "1.1.1.1", 443, "/", "1.1.1.1"),
        ("https://[2606:4700::1111]:444/", "2606:4700::1111", 444, "/", "[2606:4700::1111]:444"),
        ("https://receiver.example?x=1", "receiver.example", 443, "/?x=1", "receiver.example"),
    ],
)
def test_urls_that_are_taken(url: str, host: str, port: int, path: str, header: str) -> None:
    target = target_of(url, allow_private=False)
    assert (target.host, target.port, target.path, target.host_header) == (host, port, path, header)


def test_private_ones_where_they_are_allowed() -> None:
    assert target_of("http://127.0.0.1:8000/", allow_private=True).port == 8000
    assert target_of("http://localhost/", allow_private=True).host == "localhost"
    with pytest.raises(ValueError, match="https"):
        target_of("gopher://127.0.0.1/", allow_private=True)
