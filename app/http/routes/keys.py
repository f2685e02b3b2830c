"""API keys: made, rotated, revoked, listed. Part of the admin API."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.domain.errors import AlreadyExists, KeyNotChangeable
from app.http import filters
from app.http.auth import caller_of_call
from app.http.json import read_object
from app.http.openapi.describe import PageOf, answers
from app.http.paging import listed, newest_first
from app.http.query import PAGE, takes
from app.http.routes import asked_by_operator, container, success
from app.http.schemas.keys import KeySchema, RotationSchema
from app.operations.keys import MadeKey
from app.wire import columns
from app.wire.keys import KeyAnswer, MadeKeyAnswer, key_answer, made_key_answer

blueprint = Blueprint("keys", __name__, url_prefix="/api/admin/keys")

_key = KeySchema()
_rotation = RotationSchema()


@blueprint.post("")
@answers(MadeKeyAnswer, status=201, body=_key, refuses=(AlreadyExists,))
def create_key() -> Response:
    """Makes a key; only this answer shows it. An operator's key needs scopes, and gets none that the caller lacks."""
    return _made(container().key_admin.create(**asked_by_operator(_key)), "Key created")


@blueprint.get("")
@takes(*PAGE, *filters.KEYS)
@answers(PageOf(KeyAnswer))
def list_keys() -> Response:
    """Keys, newest first, without the secret keys themselves."""
    wanted, keys = filters.keys(), container().key_admin
    found = newest_first(lambda limit, before: keys.list(limit, before, wanted), key_answer)
    return listed("Keys", found, columns.KEYS)


@blueprint.get("/<key_id>")
@answers(KeyAnswer)
def show_key(key_id: str) -> Response:
    """All data of a key, without the secret key itself."""
    return success("Key", key_answer(container().key_admin.get(key_id)))


@blueprint.post("/<key_id>/rotate")
@answers(MadeKeyAnswer, status=201, body=_rotation, body_is_optional=True, refuses=(KeyNotChangeable,))
def rotate_key(key_id: str) -> Response:
    """Makes a successor with the same name and scopes; only this answer shows it. The old key works for the overlap."""
    asked = _rotation.load(read_object() if request.get_data() else {})
    return _made(container().key_admin.rotate(key_id, **asked, caller=caller_of_call()), "Key rotated")


@blueprint.post("/<key_id>/revoke")
@answers(KeyAnswer, refuses=(KeyNotChangeable,))
def revoke_key(key_id: str) -> Response:
    """Revokes a key. Every process refuses it within a second."""
    return success("Key revoked", key_answer(container().key_admin.revoke(key_id, caller=caller_of_call())))


def _made(made: MadeKey, message: str) -> Response:
    response = success(message, made_key_answer(made), 201)
    # The key is shown only this once, and no cache on the way may keep it.
    response.headers["Cache-Control"] = "no-store"
    return response
