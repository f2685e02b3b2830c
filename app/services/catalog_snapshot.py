"""Each process's own copy of the catalog, kept fresh in the background.

A request never waits for it. A change shows in every process within the poll interval, and at once in the
process that made it. While Postgres is away the last copy goes on serving.
"""

from __future__ import annotations

import threading

import sqlalchemy as sa

from app.domain.catalog import Catalog
from app.stores.postgres import catalog as catalog_store


class CatalogSnapshot:
    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._catalog = Catalog(version=0)
        self._epoch = 0

    @property
    def current(self) -> Catalog:
        return self._catalog

    @property
    def epoch(self) -> int:
        """The cache epoch this process knows: cached wallets of an older one are loaded anew."""
        return self._epoch

    @property
    def is_loaded(self) -> bool:
        return self._catalog.version > 0

    def refresh(self) -> Catalog:
        """Look whether something changed, and load it if so. Raises SQLAlchemyError when Postgres is away."""
        with self._engine.connect() as connection:
            state = catalog_store.state(connection)
            with self._lock:
                self._epoch = max(self._epoch, state.cache_epoch)
                known = self._catalog.version
            if state.catalog_version <= known:
                return self._catalog
            loaded = catalog_store.load(connection)
        with self._lock:
            if loaded.version > self._catalog.version:
                self._catalog = loaded
            return self._catalog

    def start_new_epoch(self) -> None:
        """Void every wallet cached so far, in all processes. Raises SQLAlchemyError when Postgres is away."""
        with self._engine.begin() as connection:
            epoch = catalog_store.bump_epoch(connection)
        with self._lock:
            self._epoch = max(self._epoch, epoch)
