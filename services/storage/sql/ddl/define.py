"""The frame of every defining statement: the catalog lock, the changes, the tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Catalog, CatalogChange
from services.storage.sql.answer import command_complete
from services.storage.sql.plan import ControlPlan
from services.storage.txn.locks import Mode
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

Action = Callable[["StorageSession", Transaction, Catalog], list[CatalogChange] | None]
"""Returns the changes, or None when a lock must be waited for."""


def define(tag: str, action: Action) -> ControlPlan:
    """Return a plan that takes the catalog lock, runs `action` and applies its changes to the transaction's catalog."""
    answer = command_complete(tag)

    def run(session: StorageSession) -> bytes | None:
        engine = session.engine
        transaction = session.transaction_for_write()
        if transaction.read_only:
            raise OrbitError(f"cannot execute {tag} in a read-only transaction", sqlstate="25006")
        if not engine.catalog_lock.acquire(transaction, 0, Mode.TABLE_DEFINE):
            return None
        changes = action(session, transaction, engine.catalog(transaction))
        if changes is None:
            return None
        if changes:
            transaction.change_catalog(engine.state.catalog, changes)
        return answer

    return ControlPlan(run)
