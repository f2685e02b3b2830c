"""Style, script and icon. The address of each contains the hash of its content, so that a browser may cache it for ever
and still gets a new release's file at once.

htmx is the only library. Its file is the published one: `THIRD_PARTY` has its origin and its hash, which a test checks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from flask import Blueprint, Response, url_for
from werkzeug.exceptions import NotFound

from app.console.access import open_to_all

blueprint = Blueprint("assets", __name__, url_prefix="/assets")

HTMX = "htmx-2.0.11.min.js"
THIRD_PARTY = {
    HTMX: {
        "package": "htmx.org",
        "version": "2.0.11",
        "source": "npm: htmx.org@2.0.11, dist/htmx.min.js",
        "licence": "0BSD",
        "licence_file": "htmx-LICENSE.txt",
        "sha256": "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    }
}
TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
FOR_EVER = "public, max-age=31536000, immutable"
HASH_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    content_type: str
    hash: str


@cache
def assets() -> dict[str, Asset]:
    found = {}
    for file in files("app.console").joinpath("assets").iterdir():
        content_type = TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            content = file.read_bytes()
            found[file.name] = Asset(content, content_type, hashlib.sha256(content).hexdigest()[:HASH_LENGTH])
    return found


def asset_url(name: str) -> str:
    return url_for("assets.serve", hash=assets()[name].hash, name=name)


@blueprint.get("/<hash>/<name>")
@open_to_all
def serve(hash: str, name: str) -> Response:
    asset = assets().get(name)
    if asset is None:
        raise NotFound
    response = Response(asset.content, content_type=asset.content_type)
    # During a rollout, a page of one release may ask a process of another one: it gets that file, and mustn't cache it.
    response.headers["Cache-Control"] = FOR_EVER if hash == asset.hash else "no-cache"
    return response
