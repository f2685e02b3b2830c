"""Where webhooks may be sent: over https, to public addresses.

A URL is checked when it is set. The addresses that its host resolves to are checked at each attempt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

URL_LENGTH_MAX = 2_000
PORTS = {"https": 443, "http": 80}

# Networks that IANA's special-purpose registry calls not globally reachable, and multicast. They are listed here
# because the answer of Python's `is_global` has changed between releases.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; metadata of some clouds
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # a public number, but Azure's own host service for each of its machines
    )
)
# All public addresses are in 2000::/3, but not all of that is public: networks that embed an IPv4 address lead back to
# it.
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """The host to connect to, and the path to request there."""

    scheme: str
    host: str
    port: int
    path: str
    """Including the query."""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. Raises ValueError."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed in _PUBLIC_V6 and not any(parsed in network for network in _NOT_PUBLIC_V6)
        parsed = parsed.ipv4_mapped
    return not any(parsed in network for network in _NOT_PUBLIC_V4)


def target_of(url: object, *, allow_private: bool) -> Target:
    """The target of a URL. Raises ValueError with the reason; `allow_private` also allows http and any address."""
    if not isinstance(url, str):
        raise ValueError("Must be a string.")  # noqa: TRY004
    if not 1 <= len(url) <= URL_LENGTH_MAX:
        raise ValueError(f"Must have 1 to {URL_LENGTH_MAX} characters.")
    if not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
        raise ValueError("Must be a URL of printable ASCII characters, with all others escaped.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("Must be a URL.") from None
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise ValueError("Must begin with https://.")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ValueError("Must not hold a user or a password.")
    if "#" in url:
        raise ValueError("Must not have a fragment.")
    host = (parts.hostname or "").rstrip(".")
    if not host or port == 0:
        raise ValueError("Must name a host.")
    _check_host(host, allow_private)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or PORTS[parts.scheme], path)


def _check_host(host: str, allow_private: bool) -> None:
    try:
        allowed = allow_private or is_public(host)
    except ValueError:
        # The host is a name. The addresses that it resolves to are checked at each call.
        if len(host) > 253 or not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", host):
            raise ValueError("Must name a host.") from None
        allowed = allow_private or (host != "localhost" and not host.endswith(".localhost"))
    if not allowed:
        raise ValueError("Must lead to a public address.")
