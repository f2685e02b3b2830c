"""Style, script and icon. Each has the hash of its bytes in its address, so that a browser may keep it for ever, and a
new release shows at once.

htmx is the one library. It is kept here as it was published: `THIRD_PARTY` says what it is, and a test holds the file
to the hash.
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
    # While a new release is rolled out, a page of one process may ask another: it gets what there is, and asks again.
    response.headers["Cache-Control"] = FOR_EVER if hash == asset.hash else "no-cache"
    return response
