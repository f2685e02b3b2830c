"""The proxy's configuration as it is shipped, run by Debian's nginx in front of the real API."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.console.factory import FORM_BYTES_MAX
from app.http.calls import BATCH_BYTES_MAX, BODY_BYTES_MAX
from app.http.routes.price_imports import LIST_BYTES_MAX
from stack.processes import launch, stop
from stack.procfile import ROOT
from tests import processes
from tests.conftest import ADMIN_KEY, SERVER_KEY
from tests.debian import debian
from tests.processes import Running, free_port, wait_until

CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text()
SERVICE = {"x-server-api-key": SERVER_KEY, "content-type": "application/json"}
SLOW = 40
BODY_SECONDS = 2


@dataclass(frozen=True)
class Proxied:
    api: str
    web: Running
    http: str
    https: str
    port: int
    trusted: ssl.SSLContext
    folder: Path
    reload: Callable[[], object]

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, f"{self.https}{path}", verify=self.trusted, timeout=20, **options)


def told_command(heading: str, start: str) -> str:
    """A command that docs/deploy.md tells under a heading."""
    section = (ROOT / "docs" / "deploy.md").read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    commands = [line.removeprefix("$ ") for line in section.replace("\\\n", "").splitlines() if line.startswith("$ ")]
    [found] = [command for command in commands if command.startswith(start)]
    return found


@pytest.fixture(scope="module")
def proxied(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxied]:
    programs = debian(request.config, {"nginx": "nginx"})
    folder = tmp_path_factory.mktemp("proxy")
    # The certificate as the document tells to make one for a try.
    command = told_command("TLS", "openssl req").replace("till.example.com", "localhost")
    for line in (told_command("TLS", "mkdir"), command):
        subprocess.run(["/bin/sh", "-c", line], cwd=folder, check=True, capture_output=True)
    with processes.web({**environment, "LOG_LEVEL": "INFO", "TRUSTED_PROXIES": "127.0.0.1"}, folder, threads=2) as (
        api,
        web,
    ):
        ports = free_port(), free_port()
        text = CONFIGURATION
        for told, here in (
            ("/tmp/", f"{folder}/"),  # noqa: S108 - the container's own
            ("server api:5000;", f"server {api.removeprefix('http://')};"),
            ("listen 8080;", f"listen 127.0.0.1:{ports[0]};"),
            ("listen 8443 ssl;", f"listen 127.0.0.1:{ports[1]} ssl;"),
            ("/etc/tokentill/tls/", f"{folder}/deploy/tls/"),
            ("/var/www/acme", f"{folder}/deploy/acme"),
            ("client_body_timeout 10s;", f"client_body_timeout {BODY_SECONDS}s;"),
        ):
            assert told in text, told
            text = text.replace(told, here)
        configuration = folder / "nginx.conf"
        configuration.write_text(text)
        mode = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
        log = folder / "nginx.log"
        words = [programs.programs["nginx"], "-p", folder, "-c", configuration, "-g", mode]
        settings = {"PATH": os.defpath, **programs.environment}
        with log.open("ab") as output:
            nginx = launch(words, death_signal="SIGTERM", cwd=folder, env=settings, output=output)

        def reload() -> None:
            subprocess.run([*words, "-s", "reload"], cwd=folder, env=settings, check=True, capture_output=True)

        try:
            trusted = ssl.create_default_context(cafile=str(folder / "deploy" / "tls" / "fullchain.pem"))
            https = f"https://localhost:{ports[1]}"
            made = Proxied(api, web, f"http://localhost:{ports[0]}", https, ports[1], trusted, folder, reload)
            wait_until(lambda: is_up(made), what="nginx", log=log)
            yield made
        finally:
            stop(nginx)


def is_up(proxied: Proxied) -> bool:
    try:
        return proxied.call("GET", "/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_calls_go_through_over_tls(proxied: Proxied) -> None:
    answer = proxied.call("POST", "/api/token-process/start", headers=SERVICE, content="{}")
    direct = httpx.post(f"{proxied.api}/api/token-process/start", headers=SERVICE, content="{}")
    assert answer.status_code == direct.status_code == 400
    assert answer.json()["errors"] == direct.json()["errors"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "nginx/" not in answer.headers["server"]
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{proxied.https}/healthz")
    assert httpx.get(f"{proxied.http}/x?y=1").headers["location"] == "https://localhost/x?y=1"


@contextlib.contextmanager
def slow_requests(proxied: Proxied, count: int) -> Iterator[list[ssl.SSLSocket]]:
    """Calls whose bodies don't come."""
    head = f"POST /api/token-process/end HTTP/1.1\r\nHost: localhost\r\nx-server-api-key: {SERVER_KEY}\r\n"
    head += 'content-type: application/json\r\nContent-Length: 5000\r\n\r\n{"user_id":'
    with contextlib.ExitStack() as opened:
        sockets = []
        for _ in range(count):
            plain = opened.enter_context(socket.create_connection(("127.0.0.1", proxied.port), timeout=20))
            secure = opened.enter_context(proxied.trusted.wrap_socket(plain, server_hostname="localhost"))
            secure.sendall(head.encode())
            sockets.append(secure)
        yield sockets


def test_slow_bodies_never_reach_the_api(proxied: Proxied) -> None:
    log_before = proxied.web.log.read_text()
    with slow_requests(proxied, SLOW) as sockets:
        # Two threads answer there; forty callers keep none of them.
        started = time.monotonic()
        for _ in range(10):
            assert proxied.call("POST", "/api/token-process/start", headers=SERVICE, content="{}").status_code == 400
        assert time.monotonic() - started < BODY_SECONDS * 5
        for slow in sockets:
            # Told off, or hung up on: either way by nginx.
            answer = slow.recv(4_000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), answer
    time.sleep(0.2)
    seen = [
        json.loads(line) for line in proxied.web.log.read_text()[len(log_before) :].splitlines() if '"path"' in line
    ]
    # The lines of those who waited for the server to be there may come late.
    assert {line["path"] for line in seen} - {"/healthz"} == {"/api/token-process/start"}


def test_the_api_learns_the_clients_address_and_believes_no_client(proxied: Proxied) -> None:
    transport = httpx.HTTPTransport(verify=proxied.trusted, local_address="127.0.0.5")
    with httpx.Client(transport=transport) as client:
        # A client that would like to be another one, and a call past the proxy that says the same.
        lies = {**SERVICE, "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Request-Id": "proxied"}
        client.post(f"{proxied.https}/api/token-process/start", headers=lies, content="{}")

    def logged() -> list[Any]:
        return [
            line for line in map(json.loads, proxied.web.log.read_text().splitlines()) if "proxied" in line.values()
        ]

    wait_until(lambda: bool(logged()), what="the request's line")
    assert [line["address"] for line in logged()] == ["127.0.0.5"]


@pytest.mark.parametrize(
    ("path", "header", "bytes_max"),
    [
        ("/api/token-process/end", SERVICE, BODY_BYTES_MAX),
        ("/api/token-process/end/batch", SERVICE, BATCH_BYTES_MAX),
        ("/api/admin/wallets", {"x-admin-api-key": ADMIN_KEY, "content-type": "application/json"}, BODY_BYTES_MAX),
        (
            "/api/admin/price-imports",
            {"x-admin-api-key": ADMIN_KEY, "content-type": "application/json"},
            LIST_BYTES_MAX,
        ),
    ],
)
def test_limits_of_bodies_are_the_servers_own(
    proxied: Proxied, path: str, header: dict[str, str], bytes_max: int
) -> None:
    fits = proxied.call("POST", path, headers=header, content=b" " * bytes_max)
    assert fits.status_code == 400
    assert fits.json()["request_id"]
    too_large = proxied.call("POST", path, headers=header, content=b" " * (bytes_max + 1))
    direct = httpx.post(f"{proxied.api}{path}", headers=header, content=b" " * (bytes_max + 1))
    assert too_large.status_code == direct.status_code == 413
    for field in ("success", "status", "message", "code"):
        assert too_large.json()[field] == direct.json()[field], field
    assert "request_id" not in too_large.json(), "nginx answered"


def test_challenges_of_a_certificate_authority_are_answered(proxied: Proxied) -> None:
    """As certbot lays them into its webroot, whoever's rights it runs with."""
    assert "--webroot-path deploy/acme " in told_command("TLS", "sudo certbot")
    challenge = proxied.folder / "deploy" / "acme" / ".well-known" / "acme-challenge" / "token"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("token.thumbprint")
    path = "/.well-known/acme-challenge"
    assert httpx.get(f"{proxied.http}{path}/token").text == "token.thumbprint"
    assert httpx.get(f"{proxied.http}{path}/another").status_code == 404
    assert httpx.get(f"{proxied.http}{path}/%2e%2e/%2e%2e/%2e%2e/tls/privkey.pem").status_code in (301, 400)


def test_a_renewed_certificate_is_used_from_the_reload_on(proxied: Proxied, tmp_path: Path) -> None:
    (tmp_path / "deploy" / "tls").mkdir(parents=True)
    command = told_command("TLS", "openssl req").replace("till.example.com", "localhost")
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    [hook] = re.findall(r"--deploy-hook\s+'(.*)'$", told_command("TLS", "sudo certbot"))
    install, _, reload = hook.partition(" && ")
    assert reload == "docker exec tokentill-proxy-1 nginx -s reload"
    if os.geteuid() != 0:
        install = install.replace("-o 101 -g 101 ", "")
    install = install.replace("/srv/tokentill/", f"{proxied.folder}/")
    with httpx.Client(verify=proxied.trusted, timeout=20) as old:
        assert old.get(f"{proxied.https}/healthz").status_code == 200
        # As certbot calls it.
        lineage = {"RENEWED_LINEAGE": str(tmp_path / "deploy" / "tls")}
        subprocess.run(["/bin/sh", "-c", install], env={"PATH": os.defpath, **lineage}, check=True, capture_output=True)
        proxied.reload()
        renewed = ssl.create_default_context(cafile=str(tmp_path / "deploy" / "tls" / "fullchain.pem"))
        wait_until(lambda: answers(proxied, renewed), what="the new certificate")
    proxied.trusted.load_verify_locations(cafile=str(tmp_path / "deploy" / "tls" / "fullchain.pem"))


def answers(proxied: Proxied, trusted: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{proxied.https}/healthz", verify=trusted, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_what_is_for_those_inside_stays_there(proxied: Proxied) -> None:
    answer = proxied.call("GET", "/metrics", headers={"x-admin-api-key": ADMIN_KEY})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_api_that_is_away_is_told_as_the_contract_says(proxied: Proxied, tmp_path: Path) -> None:
    proxied.web.stop()
    answer = proxied.call("POST", "/api/token-process/end", headers=SERVICE, content="{}")
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    assert answer.headers["retry-after"] == "1"


def test_forms_of_the_console_may_be_as_large_as_it_takes() -> None:
    for path, bytes_max in (("/console", FORM_BYTES_MAX), ("= /console/price-imports/new", LIST_BYTES_MAX)):
        [told] = re.findall(rf"location {path} {{\s+client_max_body_size (\d+)(k|m);", CONFIGURATION)
        assert int(told[0]) * {"k": 1024, "m": 1024**2}[told[1]] == bytes_max


def test_whole_requests_are_asked_for_where_anything_is_passed_on() -> None:
    assert "proxy_request_buffering on;" in CONFIGURATION
    assert not re.search(r"proxy_request_buffering\s+off", CONFIGURATION)
    assert shutil.which("openssl"), "the tests above make a certificate with it"
