"""A small catalog and one filled wallet to try things with, for a local stack only."""

from __future__ import annotations

from contextlib import suppress

from app.billing.postings import PostingService
from app.catalog.admin import CatalogAdmin
from app.domain.amounts import MICROS_PER_TOKEN
from app.domain.catalog import FeatureEndpoint
from app.domain.errors import AlreadyExists, Invalid
from app.domain.keys import SYSTEM, Caller
from app.domain.postings import Posting, PostingKind
from app.domain.reports import Scope
from app.domain.wallets import WalletBalance
from app.operations.wallets import WalletAdmin

FEATURE_ID = "demo-feature"
PACKAGE_ID = "demo-package"
USER_ID = "demo-user"
PROFIT_BASIS_POINTS = 1_000
OPENING_MICROS = 1_000 * MICROS_PER_TOKEN


class DemoSeed:
    def __init__(
        self, *, is_local: bool, catalog: CatalogAdmin, wallets: WalletAdmin, postings: PostingService
    ) -> None:
        self._is_local = is_local
        self._catalog = catalog
        self._wallets = wallets
        self._postings = postings

    def seed(self, caller: Caller = SYSTEM) -> WalletBalance:
        """Add the parts of the demo that are missing, and change nothing else. Returns the demo wallet.

        Raises Invalid outside local mode, or Unavailable.
        """
        if not self._is_local:
            raise Invalid("The demo is seeded with TOKENTILL_MODE=local only")
        with suppress(AlreadyExists):
            self._catalog.create_feature(FeatureEndpoint(FEATURE_ID, "Demo feature", MICROS_PER_TOKEN), caller)
        with suppress(AlreadyExists):
            self._catalog.create_package(PACKAGE_ID, "Demo package", [FEATURE_ID], caller)
        if not self._catalog.rules(Scope(), 1).items:
            self._catalog.create_rule(PROFIT_BASIS_POINTS, caller=caller)
        with suppress(AlreadyExists):
            self._wallets.create(USER_ID, PACKAGE_ID, caller=caller)
        # Posted only once, as its reference is always the same.
        self._postings.post(Posting(USER_ID, PostingKind.TOP_UP, OPENING_MICROS, "demo-seed", caller=caller))
        return self._wallets.get(USER_ID)
