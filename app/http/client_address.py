"""The address of a request's client: the socket's peer, or the address that a trusted proxy names.

Only proxies in TRUSTED_PROXIES are believed, and only what they have added to the header themselves. Each proxy appends
the address of its peer, so the header is read from its right end: the first address that isn't a trusted proxy is the
client, and anything to the left of it may be forged. Only one header is read (PROXY_HEADER): a proxy that writes one of
the two headers passes the other one on as its clients have written it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from app.config import Config
from app.domain.addresses import Address, parsed

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

HOPS_MAX = 32
REMEMBERED_MAX = 4_096
# The "address" of a peer that has none, as at a Unix socket.
UNKNOWN = "unknown"

_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]+)\s*(?:;|$)', re.IGNORECASE)


class ClientAddress:
    """Finds the address of a request's client, as text in the address's canonical form."""

    def __init__(self, config: Config) -> None:
        self._trusted = config.trusted_proxies
        self._is_rfc7239 = config.proxy_header == "forwarded"
        self._variable = "HTTP_" + config.proxy_header.upper().replace("-", "_")
        self._named = lru_cache(REMEMBERED_MAX)(self._first_untrusted)

    def of(self, environ: WSGIEnvironment) -> str:
        peer: str = environ.get("REMOTE_ADDR") or UNKNOWN
        if not self._trusted:
            return peer
        return self._named(peer, environ.get(self._variable, ""))

    def _first_untrusted(self, peer: str, header: str) -> str:
        address = parsed(peer)
        if address is None:
            return peer
        for said in reversed(_elements(header)[-HOPS_MAX:]):
            if not self._is_trusted(address):
                break
            named = parsed(_forwarded_for(said) if self._is_rfc7239 else said)
            if named is None:
                # The proxy doesn't know its peer, or hides it: the proxy itself is the client then.
                break
            address = named
        return str(address)

    def _is_trusted(self, address: Address) -> bool:
        return _is_within(address, self._trusted)


def _elements(header: str) -> Sequence[str]:
    # Splitting at commas within quotes does no harm, as no address has one.
    return [part.strip() for part in header.split(",") if part.strip()]


def _forwarded_for(element: str) -> str:
    found = _FORWARDED_FOR.search(element)
    return found.group(1).strip('"') if found else ""


def _is_within(address: Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
