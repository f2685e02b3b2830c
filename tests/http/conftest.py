from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.http.admin import Admin


@pytest.fixture
def admin(client: FlaskClient, admin_headers: dict[str, str]) -> Admin:
    return Admin(client, admin_headers)
