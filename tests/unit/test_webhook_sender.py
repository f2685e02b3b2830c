"""Sending, to a real receiver on loopback: whatever it does, an attempt ends in time and tells what it brought."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from app.domain.webhooks import Answer, AttemptError
from app.webhooks import sender as sender_module
from app.webhooks.sender import WebhookSender
from tests.receivers import Receiver, dripping, hanging, receiver, saying, silent_port

SECONDS = 0.5


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def make() -> Iterator[Callable[..., WebhookSender]]:
    made: list[WebhookSender] = []

    def make(**settings: object) -> WebhookSender:
        made.append(WebhookSender(**{"timeout_seconds": SECONDS, "allow_private": True, **settings}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def sender(make: Callable[..., WebhookSender]) -> WebhookSender:
    return make()


def post(sender: WebhookSender, url: str) -> Answer:
    begun = time.monotonic()
    answer = sender.post(url, {"X-Test": "1", "Content-Type": "application/json"}, b'{"a":1}')
    # Whatever came of it, it came in time.
    assert time.monotonic() - begun < SECONDS + 1.5
    return answer


def test_what_is_sent(there: Receiver, sender: WebhookSender) -> None:
    there.answer, there.body = 200, b"thank you"
    answer = post(sender, there.url)
    assert (answer.is_success, answer.status, answer.error, answer.excerpt) == (True, 200, None, "thank you")
    [received] = there.received
    assert (received.path, received.body) == ("/hooks?from=tokentill", b'{"a":1}')
    assert received.headers == {
        "host": f"127.0.0.1:{there.port}",
        "x-test": "1",
        "content-type": "application/json",
        "content-length": "7",
        "accept-encoding": "identity",
        "connection": "close",
    }


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_a_success(there: Receiver, sender: WebhookSender, status: int) -> None:
    there.answer = status
    assert post(sender, there.url).is_success


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 503])
def test_every_other_status_is_a_failure(there: Receiver, sender: WebhookSender, status: int) -> None:
    there.answer = status
    answer = post(sender, there.url)
    assert (answer.is_success, answer.status, answer.reason) == (False, status, "status")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(there: Receiver, sender: WebhookSender, status: int) -> None:
    with receiver() as elsewhere:
        there.answer, there.headers = status, {"Location": elsewhere.url}
        assert post(sender, there.url).status == status
        assert elsewhere.received == []
    assert len(there.received) == 1


def test_retry_after_is_told_in_seconds_only(there: Receiver, sender: WebhookSender) -> None:
    there.answer = 429
    for text, seconds in (("17", 17), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("9" * 30, 999_999_999)):
        there.headers = {"Retry-After": text}
        assert post(sender, there.url).retry_after_seconds == seconds


def test_one_that_hangs_is_given_up_in_time(there: Receiver, sender: WebhookSender) -> None:
    there.answer = hanging(3)
    assert post(sender, there.url).error is AttemptError.TIMEOUT


def test_headers_that_drip_are_given_up_in_time(there: Receiver, sender: WebhookSender) -> None:
    there.answer = dripping(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50, 0.05)
    assert post(sender, there.url).error is AttemptError.TIMEOUT


def test_a_body_that_drips_keeps_nobody(there: Receiver, make: Callable[..., WebhookSender]) -> None:
    there.answer = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhel", 0.001)
    answer = post(make(timeout_seconds=30.0), there.url)
    assert (answer.is_success, answer.excerpt) == (True, "hel")


def test_a_body_without_end_is_cut(there: Receiver, sender: WebhookSender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "BODY_SECONDS_MAX", 0.3)
    sent = 0

    def endless(handler: object) -> None:
        nonlocal sent
        handler.connection.sendall(b"HTTP/1.1 500 Oh\r\n\r\n")  # type: ignore[attr-defined]
        while True:
            handler.connection.sendall(b"x\x00\x1b[31m" * 10_000)  # type: ignore[attr-defined]
            sent += 1

    there.answer = endless
    answer = post(sender, there.url)
    assert answer.status == 500
    assert answer.excerpt is not None
    assert len(answer.excerpt) <= sender_module.EXCERPT_LENGTH
    assert answer.excerpt.isprintable()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
    ],
)
def test_what_is_no_http(there: Receiver, sender: WebhookSender, said: bytes) -> None:
    there.answer = saying(said)
    answer = post(sender, there.url)
    assert answer.status is None
    assert answer.error in (AttemptError.BAD_ANSWER, AttemptError.CONNECTION)


def test_a_status_without_its_whole_body_counts(there: Receiver, sender: WebhookSender) -> None:
    there.answer = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\npart")
    assert (post(sender, there.url).is_success, post(sender, there.url).excerpt) == (True, "part")


def test_nobody_there(make: Callable[..., WebhookSender]) -> None:
    assert post(make(), "http://127.0.0.1:1/").error is AttemptError.CONNECTION


def test_one_that_takes_connections_and_is_silent(make: Callable[..., WebhookSender]) -> None:
    with silent_port() as port:
        assert post(make(), f"http://127.0.0.1:{port}/").error is AttemptError.TIMEOUT


def test_a_name_that_nobody_knows(make: Callable[..., WebhookSender]) -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    assert post(make(resolve=unknown), "https://nobody.example/").error is AttemptError.UNKNOWN_HOST


def test_a_look_up_that_hangs_ends_in_time(make: Callable[..., WebhookSender]) -> None:
    over = threading.Event()

    def slow(host: str, port: int) -> Sequence[str]:
        over.wait(10)
        return ["127.0.0.1"]

    try:
        assert post(make(resolve=slow), "https://slow.example/").error is AttemptError.TIMEOUT
    finally:
        over.set()


class TestPublicOnly:
    @pytest.mark.parametrize(
        "addresses",
        [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::1"], ["::ffff:10.0.0.1"], ["169.254.169.254"], ["fe80::1%lo"]],
    )
    def test_a_name_that_leads_to_any_other_address_is_refused(
        self, there: Receiver, make: Callable[..., WebhookSender], addresses: list[str]
    ) -> None:
        sender = make(allow_private=False, resolve=lambda host, port: addresses)
        answer = post(sender, f"https://receiver.example:{there.port}/")
        assert answer.error is AttemptError.REFUSED_ADDRESS
        assert there.received == []

    def test_numbers_that_only_look_like_names(self, there: Receiver, make: Callable[..., WebhookSender]) -> None:
        # The system's own resolver knows these forms of 127.0.0.1.
        for host in ("2130706433", "0x7f000001", "127.1", "0177.0.0.1"):
            answer = post(make(allow_private=False), f"https://{host}:{there.port}/")
            assert answer.error in (AttemptError.REFUSED_ADDRESS, AttemptError.UNKNOWN_HOST), host

    def test_plain_http_is_refused_whenever_it_is_sent(
        self, there: Receiver, make: Callable[..., WebhookSender]
    ) -> None:
        # Set while it was allowed.
        assert post(make(allow_private=False), there.url).error is AttemptError.REFUSED_ADDRESS
        assert there.received == []

    def test_a_name_that_changes_is_looked_up_once_and_that_address_is_used(
        self, there: Receiver, make: Callable[..., WebhookSender], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Public to the check, private to a second look-up: there is none."""
        asked: list[str] = []
        connected: list[tuple[str, int]] = []

        def rebinding(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return ["93.184.216.34"] if len(asked) == 1 else ["127.0.0.1"]

        def connect(address: tuple[str, int], seconds: float) -> object:
            connected.append(address)
            raise ConnectionRefusedError("no network here")

        monkeypatch.setattr(sender_module.socket, "create_connection", connect)
        sender = make(allow_private=False, resolve=rebinding)
        assert post(sender, f"https://receiver.example:{there.port}/").error is AttemptError.CONNECTION
        assert asked == ["receiver.example"]
        assert connected == [("93.184.216.34", there.port)]
        # The second attempt looks again, and refuses.
        assert post(sender, f"https://receiver.example:{there.port}/").error is AttemptError.REFUSED_ADDRESS
        assert len(connected) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for receiver.example, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [  # noqa: S607 - Debian's, wherever it is
            "openssl",
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", "/CN=receiver.example", "-addext", "subjectAltName=DNS:receiver.example"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class TestTls:
    @pytest.fixture
    def secure(self, certificate: tuple[Path, Path]) -> Iterator[Receiver]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        with receiver(context) as found:
            yield found

    @pytest.fixture
    def trusting(self, certificate: tuple[Path, Path], make: Callable[..., WebhookSender]) -> WebhookSender:
        """It believes that certificate, and finds every name here."""
        tls = ssl.create_default_context(cafile=str(certificate[0]))
        return make(tls=tls, resolve=lambda host, port: ["127.0.0.1"], timeout_seconds=2.0)

    def test_the_names_certificate_is_checked_at_the_checked_address(
        self, secure: Receiver, trusting: WebhookSender
    ) -> None:
        assert post(trusting, f"https://receiver.example:{secure.port}/").is_success
        assert secure.received[0].headers["host"] == f"receiver.example:{secure.port}"

    def test_another_names_certificate_is_refused(self, secure: Receiver, trusting: WebhookSender) -> None:
        assert post(trusting, f"https://other.example:{secure.port}/").error is AttemptError.TLS
        assert post(trusting, f"https://127.0.0.1:{secure.port}/").error is AttemptError.TLS
        assert secure.received == []

    def test_a_strangers_certificate_is_refused(self, secure: Receiver, make: Callable[..., WebhookSender]) -> None:
        stranger = make(resolve=lambda host, port: ["127.0.0.1"], timeout_seconds=2.0)
        assert post(stranger, f"https://receiver.example:{secure.port}/").error is AttemptError.TLS

    def test_plain_http_behind_https(self, there: Receiver, trusting: WebhookSender) -> None:
        answer = post(trusting, f"https://receiver.example:{there.port}/")
        assert answer.error in (AttemptError.TLS, AttemptError.CONNECTION)

    def test_a_handshake_that_hangs_ends_in_time(self, make: Callable[..., WebhookSender]) -> None:
        with silent_port() as port:
            hanging_one = make(resolve=lambda host, port: ["127.0.0.1"])
            assert post(hanging_one, f"https://receiver.example:{port}/").error is AttemptError.TIMEOUT
