"""Where a request comes from: the socket's peer, or whom a trusted proxy names.

Only peers of TRUSTED_PROXIES are believed, and of what they pass on only what they have added themselves: the header is
read from its right end, each address said by the one to its right. The first that isn't a trusted proxy is the client;
what stands to the left of it anybody may have written. One header is read (PROXY_HEADER), as a proxy that writes one of
them passes on whatever its clients write in the other.
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
# Of a peer that has no address, as one at a Unix socket.
UNKNOWN = "unknown"

_FORWARDED_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]+)\s*(?:;|$)', re.IGNORECASE)


class ClientAddress:
    """Tells the address of a request's client, as text in its usual form."""

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
                # Somebody whom the proxy can't or won't name.
                break
            address = named
        return str(address)

    def _is_trusted(self, address: Address) -> bool:
        return _is_within(address, self._trusted)


def _elements(header: str) -> Sequence[str]:
    # A comma within quotes would be no separator; no address has one.
    return [part.strip() for part in header.split(",") if part.strip()]


def _forwarded_for(element: str) -> str:
    found = _FORWARDED_FOR.search(element)
    return found.group(1).strip('"') if found else ""


def _is_within(address: Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
