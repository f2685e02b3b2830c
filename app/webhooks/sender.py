"""Sends one webhook: to a checked address, within a time limit, reading little of the answer.

Uses the standard library's http.client, as it follows no redirects, decompresses no bodies and uses no proxies: such
features of larger clients would be risks here. The socket is opened here: the host name is resolved once, all its
addresses are checked, and one of them is connected to, so that a second look-up can't lead elsewhere (DNS rebinding).
The certificate is verified against the host name.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotResolvedInTime
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from app.domain.webhook_urls import Target, is_public, target_of
from app.domain.webhooks import Answer, AttemptError

CONNECT_SECONDS_MAX = 5.0
# Limits of what is read of an answer's body, and of what is kept of that.
BODY_BYTES_MAX = 64 * 1024
BODY_SECONDS_MAX = 2.0
EXCERPT_LENGTH = 300
RESOLVERS = 16

Resolve = Callable[[str, int], Sequence[str]]


class _Failed(Exception):
    def __init__(self, error: AttemptError, detail: str | None = None) -> None:
        super().__init__(error)
        self.error = error
        self.detail = detail


def system_addresses(host: str, port: int) -> Sequence[str]:
    """All addresses of a host name, by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class _Deadline:
    at: float

    @property
    def seconds_left(self) -> float:
        """Raises TimeoutError if no time is left."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def at_most(self, seconds: float) -> _Deadline:
        return _Deadline(min(self.at, time.monotonic() + seconds))


class WebhookSender:
    def __init__(
        self,
        *,
        timeout_seconds: float,
        allow_private: bool,
        resolve: Resolve = system_addresses,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout_seconds` is the limit of a whole attempt, including the look-up of the host name."""
        self._timeout_seconds = timeout_seconds
        self._allow_private = allow_private
        self._resolve = resolve
        self._tls = tls
        # getaddrinfo has no timeout, so it runs in a thread that an attempt can leave behind when its time is over.
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="resolver")

    def close(self) -> None:
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a request once. Never raises for a failure of the receiver, of its name or of the network."""
        begun = time.monotonic()
        deadline = _Deadline(begun + self._timeout_seconds)
        try:
            status, excerpt, retry_after = self._post(url, headers, body, deadline)
        except (_Failed, OSError, http.client.HTTPException) as error:
            failed = _failure(error)
            return Answer(time.monotonic() - begun, error=failed.error, detail=failed.detail)
        return Answer(time.monotonic() - begun, status, excerpt=excerpt, retry_after_seconds=retry_after)

    def _post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline: _Deadline
    ) -> tuple[int, str | None, int | None]:
        target = self._target(url)
        with self._connect(target, self._addresses(target, deadline), deadline) as connected:
            connected.settimeout(deadline.seconds_left)
            connected.sendall(_request(target, headers, body))
            timed = _Timed(connected, deadline)
            response = http.client.HTTPResponse(timed, method="POST")  # type: ignore[arg-type]
            try:
                response.begin()
                # The status decides. A body that comes slowly must not hold up the worker.
                timed.deadline = deadline.at_most(BODY_SECONDS_MAX)
                return response.status, _excerpt(_body(response)), _seconds(response.getheader("Retry-After"))
            finally:
                response.close()

    def _target(self, url: str) -> Target:
        try:
            # Checked again, as `allow_private` may have changed since the URL was set.
            return target_of(url, allow_private=self._allow_private)
        except ValueError as error:
            raise _Failed(AttemptError.REFUSED_ADDRESS, str(error)) from None

    def _addresses(self, target: Target, deadline: _Deadline) -> Sequence[str]:
        """The addresses of a host name. If one of them isn't allowed, the whole name is refused, as whoever controls it
        can't be trusted.
        """
        looked_up: Future[Sequence[str]] = self._resolvers.submit(self._resolve, target.host, target.port)
        try:
            found = looked_up.result(deadline.seconds_left)
        except NotResolvedInTime:
            looked_up.cancel()
            raise TimeoutError from None
        except (OSError, UnicodeError) as error:
            raise _Failed(AttemptError.UNKNOWN_HOST, getattr(error, "strerror", None)) from None
        if not found:
            raise _Failed(AttemptError.UNKNOWN_HOST)
        if not self._allow_private and not all(map(is_public, found)):
            raise _Failed(AttemptError.REFUSED_ADDRESS, "not a public address")
        return found

    def _connect(self, target: Target, addresses: Sequence[str], deadline: _Deadline) -> socket.socket:
        failure: OSError | None = None
        for address in addresses:
            try:
                seconds = min(CONNECT_SECONDS_MAX, deadline.seconds_left)
                connected = socket.create_connection((address, target.port), seconds)
            except OSError as error:
                failure = failure or error
                continue
            if target.scheme == "http":
                return connected
            try:
                connected.settimeout(min(CONNECT_SECONDS_MAX, deadline.seconds_left))
                return self._context.wrap_socket(connected, server_hostname=target.host)
            except BaseException:
                connected.close()
                raise
        raise failure or OSError("no address")

    @property
    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Trusts the system's certificate authorities, or those in SSL_CERT_FILE.
            self._tls = ssl.create_default_context()
        return self._tls


class _Timed:
    """Wraps a connected socket for http.client. Every read times out at the deadline of the attempt."""

    def __init__(self, connected: socket.socket, deadline: _Deadline) -> None:
        self.connected = connected
        self.deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))


class _Reader(io.RawIOBase):
    def __init__(self, timed: _Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._timed.connected.settimeout(self._timed.deadline.seconds_left)
        return self._timed.connected.recv_into(buffer)


def _body(response: http.client.HTTPResponse) -> bytes:
    """As much of the body as arrives in time."""
    read = b""
    with suppress(OSError, http.client.HTTPException):
        while len(read) < BODY_BYTES_MAX and (more := response.read1(BODY_BYTES_MAX)):
            read += more
    return read


def _failure(error: Exception) -> _Failed:
    match error:
        case _Failed():
            return error
        case TimeoutError():
            return _Failed(AttemptError.TIMEOUT)
        case ssl.SSLCertVerificationError():
            return _Failed(AttemptError.TLS, error.verify_message)
        case ssl.SSLError():
            return _Failed(AttemptError.TLS, error.reason)
        case OSError():
            return _Failed(AttemptError.CONNECTION, error.strerror)
    return _Failed(AttemptError.BAD_ANSWER, type(error).__name__)


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.host_header}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(body)}",
        # A compressed answer would have to be decompressed.
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


def _excerpt(body: bytes) -> str | None:
    text = body[: 4 * EXCERPT_LENGTH].decode(errors="replace")
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable.strip()[:EXCERPT_LENGTH] or None


def _seconds(retry_after: str | None) -> int | None:
    """The seconds in a Retry-After header. A date is ignored, as it would depend on the receiver's clock."""
    if retry_after is None or not retry_after.isascii() or not retry_after.strip().isdigit():
        return None
    return int(retry_after.strip()[:9])
