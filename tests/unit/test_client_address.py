"""Whose word counts for where a request comes from."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from app.config import Config, ConfigError
from app.http.client_address import HOPS_MAX, ClientAddress
from tests.unit.test_guards import CONFIG

XFF, FORWARDED = "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED"


def addresses(*trusted: str, header: str = "x-forwarded-for") -> ClientAddress:
    networks = tuple(ip_network(network) for network in trusted)
    return ClientAddress(replace(CONFIG, trusted_proxies=networks, proxy_header=header))


def told(found: ClientAddress, peer: str, header: str | None = None, name: str = XFF) -> str:
    environ: dict[str, Any] = {"REMOTE_ADDR": peer}
    if header is not None:
        environ[name] = header
    return found.of(environ)


class TestNobodyIsTrusted:
    @pytest.mark.parametrize("name", [XFF, FORWARDED])
    def test_what_peers_say_changes_nothing(self, name: str) -> None:
        assert told(addresses(), "203.0.113.9", "10.0.0.1", name) == "203.0.113.9"
        assert told(addresses("10.0.0.0/8"), "203.0.113.9", "10.0.0.1", name) == "203.0.113.9"
        assert told(addresses("10.0.0.0/8"), "203.0.113.9", "192.0.2.1, 10.0.0.1", name) == "203.0.113.9"

    def test_a_peer_without_an_address(self) -> None:
        assert addresses().of({}) == "unknown"
        assert told(addresses("10.0.0.0/8"), "/run/socket", "192.0.2.1") == "/run/socket"


class TestForwardedFor:
    @pytest.mark.parametrize(
        ("header", "address"),
        [
            (None, "10.0.0.1"),
            ("", "10.0.0.1"),
            ("192.0.2.7", "192.0.2.7"),
            (" 192.0.2.7 ", "192.0.2.7"),
            # What a client has written stands to the left of what the proxy has added.
            ("1.1.1.1, 192.0.2.7", "192.0.2.7"),
            ("10.0.0.9, 192.0.2.7", "192.0.2.7"),
            ("192.0.2.7, 10.0.0.9", "192.0.2.7"),
            ("1.1.1.1, 192.0.2.7, 10.0.0.9, 10.0.0.8", "192.0.2.7"),
            # Nobody else is there than proxies: the farthest.
            ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            # Whom the proxy can't name: then it is the proxy.
            ("192.0.2.7, unknown", "10.0.0.1"),
            ("192.0.2.7, garbage, 10.0.0.9", "10.0.0.9"),
            (",,", "10.0.0.1"),
            ("192.0.2.7,, 10.0.0.9", "192.0.2.7"),
        ],
    )
    def test_is_read_from_the_right(self, header: str | None, address: str) -> None:
        assert told(addresses("10.0.0.0/8"), "10.0.0.1", header) == address

    def test_a_mapped_peer_is_the_ipv4_one(self) -> None:
        assert told(addresses("10.0.0.0/8"), "::ffff:10.0.0.1", "192.0.2.7") == "192.0.2.7"

    def test_networks_of_both_kinds(self) -> None:
        found = addresses("10.0.0.0/8", "2001:db8::/32")
        assert told(found, "2001:db8::1", "192.0.2.7, 10.1.2.3") == "192.0.2.7"

    def test_a_long_header_is_read_from_its_end_only(self) -> None:
        found = addresses("10.0.0.0/8")
        assert told(found, "10.0.0.1", "1.1.1.1, " + "10.0.0.2, " * (HOPS_MAX + 5)) == "10.0.0.2"

    def test_the_other_header_says_nothing(self) -> None:
        assert told(addresses("10.0.0.0/8"), "10.0.0.1", "for=1.1.1.1", FORWARDED) == "10.0.0.1"
        found = addresses("10.0.0.0/8", header="forwarded")
        assert told(found, "10.0.0.1", "1.1.1.1", XFF) == "10.0.0.1"


class TestForwarded:
    @pytest.mark.parametrize(
        ("header", "address"),
        [
            ("for=192.0.2.7", "192.0.2.7"),
            ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
            ("proto=https; for=192.0.2.7", "192.0.2.7"),
            ("for=1.1.1.1, for=192.0.2.7, for=10.0.0.9", "192.0.2.7"),
            ('for="[2001:db8::1]:4711"', "2001:db8::1"),
            ('for="192.0.2.7:80"', "192.0.2.7"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("notfor=192.0.2.7", "10.0.0.1"),
        ],
    )
    def test_is_read_from_the_right(self, header: str, address: str) -> None:
        assert told(addresses("10.0.0.0/8", header="forwarded"), "10.0.0.1", header, FORWARDED) == address


class TestSettings:
    @staticmethod
    def config(**settings: str) -> Config:
        environment = {
            "DATABASE_URL": "postgresql://127.0.0.1:1/none",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "SERVER_API_KEY": "a" * 16,
            "ADMIN_API_KEY": "b" * 16,
            **settings,
        }
        return Config.from_environment(environment)

    def test_addresses_and_networks(self) -> None:
        assert self.config().trusted_proxies == ()
        found = self.config(TRUSTED_PROXIES="10.0.0.0/8, 192.0.2.1,2001:db8::/32,").trusted_proxies
        assert [str(network) for network in found] == ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]

    @pytest.mark.parametrize("value", ["proxy", "10.0.0.1/8", "10.0.0.0/33", "*"])
    def test_what_is_none(self, value: str) -> None:
        with pytest.raises(ConfigError, match=r"^TRUSTED_PROXIES must be addresses or networks"):
            self.config(TRUSTED_PROXIES=value)

    def test_an_unknown_header(self) -> None:
        with pytest.raises(ConfigError, match="PROXY_HEADER"):
            self.config(PROXY_HEADER="x-real-ip")
