"""IP addresses as peers and proxies write them."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_BRACKETED = re.compile(r"\[([^\]]+)\](?::\d+)?")
_WITH_PORT = re.compile(r"([0-9.]+):\d+")


def parsed(text: str) -> Address | None:
    """An IP address written with or without its port. None where the text isn't one."""
    for pattern in (_BRACKETED, _WITH_PORT):
        if match := pattern.fullmatch(text):
            text = match.group(1)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=4_096)
def neighbourhood(text: str) -> str:
    """The network that counts as one sender: an IPv4 address alone, or an IPv6 address's /64 (one host or home)."""
    address = parsed(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return text if address is None else str(address)
