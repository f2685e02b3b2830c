"""A script of requests by which two ways of answering are compared, raw: what is sent, and what comes back.

Each run begins on empty stores with the same company, so that the same answers come, but for ids and moments: those are
masked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from io import BytesIO
from types import MappingProxyType
from typing import Any, NamedTuple

from tests.support import FEATURE, Billing

KEY = "dev-server-key"
PREFIX = "/api/token-process/"
_RUN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}-[0-9a-f]{12}")
_MOMENT = re.compile(r"20\d\d-\d\d-\d\dT[\d:.]+Z")


class Request(NamedTuple):
    path: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})
    method: str = "POST"
    content_type: str | None = "application/json"
    query: str = ""
    has_length: bool = True


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    # Parsed exactly, and as text for its numbers.
    body: Any
    numbers: list[str]


def set_up(billing: Billing) -> None:
    """One feature at 12.5 % profit in one package, one that isn't in it, and four wallets."""
    billing.catalog(basis_points=1_250)
    billing.execute("INSERT INTO feature_endpoints (id, name, min_micros) VALUES ('other', 'Other', 1)")
    billing.announce_catalog()
    billing.wallet("u", tokens=1_000)
    billing.wallet("poor", tokens=1)
    billing.wallet("über-👍", tokens=50)
    billing.wallet("shut", tokens=50)
    billing.execute("UPDATE wallets SET status = 'suspended' WHERE user_id = 'shut'")


def ask(app: Any, request: Request) -> Answer:
    """Send a request to a WSGI application as Granian would."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "5000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost:5000",
        "HTTP_X_REQUEST_ID": "request-1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(request.body),
        "wsgi.input_terminated": True,
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in {"x-server-api-key": KEY, **request.headers}.items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value.encode().decode("latin-1")
    if request.content_type is not None:
        environ["CONTENT_TYPE"] = request.content_type
    if request.has_length:
        environ["CONTENT_LENGTH"] = str(len(request.body))
    said: list[Any] = []
    content = app(environ, lambda status, headers, exc_info=None: said.extend((status, headers)))
    text = b"".join(content).decode()
    masked = _MOMENT.sub("<moment>", _RUN.sub("<run>", text))
    numbers: list[str] = []
    body = json.loads(
        masked,
        parse_float=lambda number: numbers.append(number) or Decimal(number),
        parse_int=lambda number: numbers.append(number) or int(number),
    )
    headers = {name: value for name, value in said[1] if name != "Content-Length"}
    if "Allow" in headers:
        # A set of methods, in no order.
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    assert dict(said[1])["Content-Length"] == str(len(text.encode()))
    return Answer(int(said[0][:3]), dict(sorted(headers.items())), body, numbers)


def post(route: str, body: Any, **more: Any) -> Request:
    return Request(PREFIX + route, body if isinstance(body, bytes) else json.dumps(body).encode(), **more)


def requests() -> Iterator[Request]:
    """The contract's cases, and whatever else a body or its headers may be."""
    yield from _starts()
    yield from _ends()
    yield from _batches()
    for route, right in (("start", _start()), ("end", _end(0)), ("end/batch", {"ends": [_end(0)]})):
        yield from _unusual(route, json.dumps(right).encode())


def _start(**fields: Any) -> dict[str, Any]:
    return {"user_id": "u", "feature_endpoint_id": FEATURE, **fields}


def _end(output_token: Any = 40, **fields: Any) -> dict[str, Any]:
    return {"user_id": "u", "feature_endpoint_id": FEATURE, "input_token": 0, "output_token": output_token, **fields}


def _starts() -> Iterator[Request]:
    yield post("start", _start())
    yield post("start", _start(unknown=[1, {"x": None}]))
    yield post("start", _start(user_id="nobody"))
    yield post("start", _start(user_id="shut"))
    yield post("start", _start(user_id="über-👍"))
    yield post("start", _start(feature_endpoint_id="other"))
    yield post("start", _start(feature_endpoint_id="unknown"))
    yield post("start", _start(hold_token=2.5, hold_seconds=60))
    yield post("start", _start(hold_token=None, hold_seconds=None))
    yield post("start", _start(hold_token=5_000))
    yield post("start", _start(user_id="poor", hold_token=1e-6))
    for wrong in ("", "x" * 129, "a\nb", "a\u202eb", 5, True, None, ["u"], {"a": 1}):
        yield post("start", _start(user_id=wrong))
        yield post("start", _start(feature_endpoint_id=wrong, user_id=wrong))
    for wrong in (0, -1, 0.0000001, 10**16, "5", True, []):
        yield post("start", _start(hold_token=wrong))
        yield post("start", _start(hold_seconds=wrong))
    yield post("start", {})
    for key in ("key-1", "key-1", "schlüssel", "x" * 255, "x" * 256, ""):
        yield post("start", _start(hold_token=1), headers={"Idempotency-Key": key})
    yield post("start", _start(hold_token=2), headers={"Idempotency-Key": "key-1"})


def _ends() -> Iterator[Request]:
    yield post("end", _end(40))
    yield post("end", _end(1, model="model-1"))
    yield post("end", _end(3.0))
    yield post(
        "end", b'{"user_id":"u","feature_endpoint_id":"' + FEATURE.encode() + b'","input_token":0,"output_token":4e1}'
    )
    yield post("end", _end(0))
    yield post("end", _end(400, user_id="poor"))
    yield post("end", _end(1, user_id="poor"))
    yield post("start", _start(user_id="poor"))
    yield post("end", _end(user_id="nobody"))
    yield post("end", _end(user_id="shut"))
    yield post("end", _end(feature_endpoint_id="other"))
    yield post("end", _end(feature_endpoint_id="unknown"))
    for wrong in (-1, 1.5, 10**8 + 1, 10**30, "4", True, None, [], {}):
        yield post("end", _end(wrong))
        yield post("end", _end(input_token=wrong, model=wrong))
    yield post("end", _end(model="", process_id=""))
    yield post("end", _end(process_id="run-1"))
    yield post("end", _end(process_id="run-1"))
    yield post("end", _end(41, process_id="run-1"))
    for key in ("end-1", "end-1", "ключ", "x" * 256, ""):
        yield post("end", _end(1), headers={"Idempotency-Key": key})
    yield post("end", _end(2), headers={"Idempotency-Key": "end-1"})
    for actor in ("shop-1", "Jürgen", "", "x" * 129, "a\x7fb"):
        yield post("end", _end(1), headers={"X-Actor": actor})
        yield post("end", _end(-1), headers={"X-Actor": actor})


def _batches() -> Iterator[Request]:
    yield post("end/batch", {"ends": [_end(4, idempotency_key=f"b-{i}") for i in range(3)]})
    mixed = [
        _end(4, idempotency_key="b-0"),
        _end(5, idempotency_key="b-0"),
        _end(-1),
        _end(4, user_id="nobody"),
        _end(4, idempotency_key=7),
        _end(400, user_id="poor"),
        "no end",
        None,
        {},
    ]
    yield post("end/batch", {"ends": mixed})
    for wrong in ([], [_end(0)] * 1_001, {}, None, "x"):
        yield post("end/batch", {"ends": wrong})
    yield post("end/batch", {})
    yield post("end/batch", {"ends": [_end(0)]}, headers={"X-Actor": ""})


def _unusual(route: str, right: bytes) -> Iterator[Request]:
    """What is the same for every route."""
    yield post(route, right)
    yield post(route, right, headers={"x-server-api-key": "wrong"})
    yield post(route, right, headers={"x-server-api-key": "schlüssel"})
    for content_type in (
        None,
        "text/plain",
        "application/json; charset=utf-8",
        "application/x+json",
        "APPLICATION/JSON",
    ):
        yield post(route, right, content_type=content_type)
    yield post(route, right, has_length=False)
    yield post(route, right, query="x=1")
    yield post(route, right, query="=")
    for method in ("GET", "PUT", "OPTIONS", "DELETE"):
        yield post(route, right, method=method)
    yield Request(f"{PREFIX}{route}/", right)
    yield Request(f"{PREFIX}{route}//", right)
    yield post(route, b" \n" + right + b"\t")
    for wrong in (
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"{}x",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"ends": [{"a": 1, "a": 2}]}',
        b'{"a": 1e999999999999999999999}',
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": "\x01"}',
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b"{'a': 1}",
        b'{"a": 01}',
        right[:-1] + b', "user_id": "u"}',
        right + b" " * 70_000,
        right + b" " * 1_100_000,
    ):
        yield post(route, wrong)
