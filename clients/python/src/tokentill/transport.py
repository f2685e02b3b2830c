"""Connections to the server: one HTTP request each at a time, kept open, and never longer than they may take.

httpx limits each wait on the socket, so an answer that drips may take for ever: here the limit is the
whole request's. And httpx looks through all its connections at every step of every request, which costs
seconds when hundreds of tasks call at once: here each connection stands alone on a stack, the warmest on top.

The `timeout` of a request to these transports is its whole time. Without an answer by then, they raise
httpx.TimeoutException; for any other trouble on the way, httpx.TransportError.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

CONNECTIONS_MAX = 100
IDLE_SECONDS = 5.0
# Far beyond any answer of the server: what sends more is something else.
ANSWER_BYTES_MAX = 16 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
# httpcore's pool, of one connection: it opens it anew when the server closed it, or it lay idle too long.
_OPTIONS = {"max_connections": 1, "keepalive_expiry": IDLE_SECONDS}


class ThreadTransport(httpx.BaseTransport):
    """For threads, any number of them: as many as there are connections send at once, the others wait."""

    def __init__(self, base_url: str) -> None:
        self._proxy = proxy_of(base_url)
        self._ssl = ssl_context(base_url)
        self._free = threading.Semaphore(CONNECTIONS_MAX)
        self._idle: list[_Connection] = []
        self._closed = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + request.extensions["timeout"]["read"]
        if not self._free.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            raise httpx.PoolTimeout("All connections are in use", request=request)
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = _Connection(self._ssl, self._proxy)
            response = connection.send(request, deadline)
            self._idle.append(connection)
            # `close` may have come by meanwhile.
            if self._closed:
                self.close()
            return response
        finally:
            self._free.release()

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Connection:
    """One connection, opened with its first request and again when the server has closed it meanwhile."""

    def __init__(self, ssl: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        self._network = _Network()
        options: dict[str, Any] = {**_OPTIONS, "ssl_context": ssl, "network_backend": self._network}
        self._pool: httpcore.ConnectionPool
        if proxy is None:
            self._pool = httpcore.ConnectionPool(**options)
        else:
            kind = httpcore.SOCKSProxy if _is_socks(proxy) else httpcore.HTTPProxy
            self._pool = kind(str(proxy.url), proxy_auth=proxy.raw_auth, **options)

    def send(self, request: httpx.Request, deadline: float) -> httpx.Response:
        self._network.deadline = deadline
        try:
            with _httpx_errors(request):
                response = self._pool.handle_request(
                    httpcore.Request(
                        request.method,
                        _url(request),
                        headers=request.headers.raw,
                        content=request.content,
                        extensions={"timeout": request.extensions["timeout"]},
                    )
                )
                try:
                    body = _limited(response.iter_stream())
                finally:
                    response.close()
        except BaseException:
            self._pool.close()
            raise
        return httpx.Response(response.status, headers=response.headers, stream=httpx.ByteStream(body))

    def close(self) -> None:
        self._pool.close()


class _Network(httpcore.NetworkBackend):
    """Sockets whose every wait ends at `deadline`, which is set anew for each request."""

    def __init__(self) -> None:
        self._plain = httpcore.SyncBackend()
        self.deadline = 0.0

    def left_seconds(self, late: type[Exception]) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise late("The time for this call is over")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = self._addresses(host, port)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError):
                return self._connect(address, port, local_address, socket_options)
        return self._connect(last, port, local_address, socket_options)

    def _connect(
        self, address: str, port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        left = self.left_seconds(httpcore.ConnectTimeout)
        return _Stream(self._plain.connect_tcp(address, port, left, local_address, socket_options), self)

    def _addresses(self, host: str, port: int) -> list[str]:
        """Look the name up in a thread of its own: nothing else can give up waiting for a name server."""
        found: list[str] = []
        failed: list[OSError] = []

        def look_up() -> None:
            try:
                for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                    found.append(str(address[0]))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=look_up, name="tokentill-lookup", daemon=True)
        thread.start()
        thread.join(self.left_seconds(httpcore.ConnectTimeout))
        if failed:
            raise httpcore.ConnectError(str(failed[0]))
        if thread.is_alive() or not found:
            raise httpcore.ConnectTimeout(f"No address of {host} was found in time")
        return found


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, network: _Network) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left_seconds(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[at : at + _PIECE_BYTES]
            self._stream.write(piece, self._network.left_seconds(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            left = self._network.left_seconds(httpcore.ConnectTimeout)
        except httpcore.ConnectTimeout:
            # httpcore closes what it gives up by itself, and knows of nothing yet that it could close.
            self.close()
            raise
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncTransport(httpx.AsyncBaseTransport):
    """For one event loop. The whole request's limit is the caller's to set: cancelling stops it anywhere."""

    def __init__(self, base_url: str) -> None:
        self._proxy = proxy_of(base_url)
        self._ssl = ssl_context(base_url)
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._idle: list[httpcore.AsyncConnectionPool] = []
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._free:
            connection = self._idle.pop() if self._idle else self._connection()
            try:
                response, body = await self._send(connection, request)
            except BaseException:
                await connection.aclose()
                raise
            self._idle.append(connection)
            if self._closed:
                await self.aclose()
        return httpx.Response(response.status, headers=response.headers, stream=httpx.ByteStream(body))

    async def aclose(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _send(
        self, connection: httpcore.AsyncConnectionPool, request: httpx.Request
    ) -> tuple[httpcore.Response, bytes]:
        with _httpx_errors(request):
            response = await connection.handle_async_request(
                httpcore.Request(
                    request.method,
                    _url(request),
                    headers=request.headers.raw,
                    content=request.content,
                    extensions={"timeout": request.extensions["timeout"]},
                )
            )
            body = bytearray()
            try:
                async for piece in response.aiter_stream():
                    _add(body, piece)
            finally:
                await response.aclose()
        return response, bytes(body)

    def _connection(self) -> httpcore.AsyncConnectionPool:
        options: dict[str, Any] = {**_OPTIONS, "ssl_context": self._ssl}
        if self._proxy is None:
            return httpcore.AsyncConnectionPool(**options)
        kind = httpcore.AsyncSOCKSProxy if _is_socks(self._proxy) else httpcore.AsyncHTTPProxy
        return kind(str(self._proxy.url), proxy_auth=self._proxy.raw_auth, **options)


def proxy_of(base_url: str) -> httpx.Proxy | None:
    """The proxy for this server that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name."""
    url = httpx.URL(base_url)
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(url.host):
        return None
    return httpx.Proxy(found if "://" in found else f"http://{found}")


def _is_socks(proxy: httpx.Proxy) -> bool:
    return proxy.url.scheme.startswith("socks")


def ssl_context(base_url: str) -> ssl.SSLContext | None:
    """Made once and only for https: it reads every root certificate there is."""
    return httpx.create_ssl_context() if httpx.URL(base_url).scheme == "https" else None


def _url(request: httpx.Request) -> httpcore.URL:
    url = request.url
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def _limited(pieces: Iterable[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        _add(body, piece)
    return bytes(body)


def _add(body: bytearray, piece: bytes) -> None:
    body += piece
    if len(body) > ANSWER_BYTES_MAX:
        raise httpcore.RemoteProtocolError("The answer is too long to be Tokentill's")


@contextlib.contextmanager
def _httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except httpcore.ConnectTimeout as error:
        raise httpx.ConnectTimeout(str(error), request=request) from error
    except httpcore.TimeoutException as error:
        raise httpx.ReadTimeout(str(error), request=request) from error
    except (httpcore.NetworkError, httpcore.ProxyError) as error:
        raise httpx.ConnectError(str(error), request=request) from error
    except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        raise httpx.RemoteProtocolError(str(error), request=request) from error
