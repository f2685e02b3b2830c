"""A browser's part: it keeps cookies, and sends forms as they stand in a page. It follows nothing by itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import IO, Any
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import TestResponse, stream_encode_multipart

PREFIX = "/console"
# Elements without an end.
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
OPTIONAL_END = {"option"}
SVG_EMPTY = {"path", "rect", "circle"}


class Browser:
    def __init__(self, app: Flask) -> None:
        self.client = app.test_client()
        # Of the key that it is signed in with, where that is one of the database.
        self.key_id = ""

    def get(self, path: str, **headers: str) -> TestResponse:
        """A page below the console's prefix, or of a whole path."""
        whole = path if path.startswith(PREFIX) else PREFIX + path
        return self.client.get(whole, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def page(self, path: str, status: int = 200, **headers: str) -> Page:
        return Page.of(self.get(path, **headers), status)

    def sign_in(self, key: str = "dev-admin-key", **fields: str) -> TestResponse:
        form = self.page("/sign-in").form("/console/sign-in")
        return self.send(form, key=key, **fields)

    def send(self, form: Form, **fields: Any) -> TestResponse:
        """Send a form of a page, some fields filled in otherwise. A field of None is left out."""
        values = MultiDict(form.values)
        for name, value in fields.items():
            values.setlist(name, [] if value is None else value if isinstance(value, list) else [value])
        if form.method == "get":
            return self.client.get(form.action, query_string=values)
        headers = {"Sec-Fetch-Site": "same-origin"}
        if not any(isinstance(value, tuple) for value in fields.values()):
            return self.client.post(form.action, data=values, headers=headers)
        # In memory: the test client would keep a large body in a temporary file that it never closes.
        files = MultiDict(
            (name, _file(value) if isinstance(value, tuple) else value) for name, value in values.items(multi=True)
        )
        body, _, boundary = stream_encode_multipart(files, use_tempfile=False)
        kind = f'multipart/form-data; boundary="{boundary}"'
        return self.client.post(form.action, data=body.read(), content_type=kind, headers=headers)

    def change(self, path: str, **fields: Any) -> TestResponse:
        """Fill in the form of a page that changes something, read the confirmation, and have it done."""
        review = self.review(path, **fields)
        return self.send(review.form(urlsplit(path).path if path.startswith(PREFIX) else PREFIX + path), step="do")

    def review(self, path: str, status: int = 200, **fields: Any) -> Page:
        """The confirmation, or the form with what is wrong."""
        whole = path if path.startswith(PREFIX) else PREFIX + path
        form = self.page(path).form(whole)
        return Page.of(self.send(form, step="review", **fields), status)

    def follow(self, response: TestResponse) -> Page:
        assert response.status_code == 303, Page.of(response, response.status_code).text
        return self.page(response.headers["Location"])


class Form:
    def __init__(self, action: str, method: str) -> None:
        self.action = action
        self.method = method
        self.values: list[tuple[str, str]] = []

    def value(self, name: str) -> str:
        return dict(self.values)[name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.values]


class Page(HTMLParser):
    """A page as it came: its forms, links and text. Raises AssertionError where its elements don't nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.forms: list[Form] = []
        self.links: list[str] = []
        # The links to what lies above it.
        self.crumbs: list[str] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self._open: list[str] = []
        self._is_above = False
        self._texts: list[str] = []
        self._select: tuple[str, str | None] | None = None
        self._area: str | None = None
        self.feed(html)
        self.close()
        assert self._open == [], f"left open: {self._open}"

    @classmethod
    def of(cls, response: TestResponse, status: int = 200) -> Page:
        page = cls(response.text)
        assert response.status_code == status, page.text
        assert response.content_type == "text/html; charset=utf-8"
        return page

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._texts).split())

    def form(self, action: str) -> Form:
        [found] = [form for form in self.forms if urlsplit(form.action).path == action]
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice: {tag} {names}"
        found = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag not in VOID and tag not in OPTIONAL_END:
            self._open.append(tag)
        match tag:
            case "form":
                self.forms.append(Form(found.get("action") or "", found.get("method") or "get"))
            case "nav":
                self._is_above = found.get("class") == "crumbs"
            case "a":
                self.links.append(found["href"] or "")
                if "nav" in self._open and self._is_above:
                    self.crumbs.append(found["href"] or "")
            case "label" if found.get("for"):
                self.labelled.add(found["for"] or "")
            case "input" | "select" | "textarea":
                self._field(tag, found)
            case "option" if self._select is not None and "selected" in found:
                self._select = (self._select[0], found.get("value"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | SVG_EMPTY, f"<{tag}/> ends nothing in HTML"
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in OPTIONAL_END:
            return
        assert self._open[-1:] == [tag], f"</{tag}> within {self._open}"
        self._open.pop()
        if tag == "select" and self._select is not None:
            self.forms[-1].values.append((self._select[0], self._select[1] or ""))
            self._select = None
        if tag == "textarea":
            self._area = None

    def handle_data(self, data: str) -> None:
        self._texts.append(data)
        if self._area is not None:
            self.forms[-1].values.append((self._area, data))
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())

    def _field(self, tag: str, found: dict[str, str | None]) -> None:
        name = found.get("name")
        is_hidden = found.get("type") == "hidden"
        if not is_hidden:
            self.fields.append({**found, "within": " ".join(self._open)})
        if not name or not self.forms:
            return
        if tag == "select":
            self._select = (name, None)
        elif tag == "textarea":
            self._area = name
        elif found.get("type") == "checkbox":
            if "checked" in found:
                self.forms[-1].values.append((name, found.get("value") or "on"))
        elif found.get("type") != "file":
            self.forms[-1].values.append((name, found.get("value") or ""))


def cookies_of(response: TestResponse) -> dict[str, str]:
    """Each cookie that an answer sets, with all that it says of it."""
    found = {}
    for header in response.headers.getlist("Set-Cookie"):
        name = header.partition("=")[0]
        found[name] = header
    return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _file(value: tuple[IO[bytes], str]) -> FileStorage:
    stream, filename = value
    return FileStorage(stream, filename=filename)
