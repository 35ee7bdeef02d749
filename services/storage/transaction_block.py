"""A session's transaction: implicit for one statement, or a block with savepoints.

Owns the block's states and what a rollback takes back, settings included; not statements, and not the commit, which
waits (`services.storage.session`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbit.kernel.errors import NotSupported, OrbitError, ReadOnly, TransactionAborted
from services.storage.client import FAILED, IDLE, IN_TRANSACTION
from services.storage.engine import Engine
from services.storage.sql.settings import Settings
from services.storage.txn.transaction import Isolation, Transaction

if TYPE_CHECKING:
    from services.storage.sql.planner import Planner


class Savepoint:
    __slots__ = ("chunks", "mark", "name", "settings")

    def __init__(self, name: str, mark: int, chunks: int, settings: dict[str, str]) -> None:
        self.name = name
        self.mark = mark
        self.chunks = chunks
        self.settings = settings


class TransactionBlock:
    """What `StorageSession` is made on. `status` is the protocol's transaction status."""

    def __init__(self, engine: Engine, planner: Planner, settings: Settings) -> None:
        self.engine = engine
        self.planner = planner
        self.settings = settings
        self.status = IDLE
        self.transaction: Transaction | None = None
        self.region_read_only = False
        """This region is a replica: every transaction is read-only."""
        self.savepoints: list[Savepoint] = []
        self._isolation = planner.default_isolation
        self._read_only = False
        self._settings_mark: dict[str, str] | None = None
        """The settings that a rollback restores."""

    def transaction_for_write(self) -> Transaction:
        """Return the transaction, started now when there is none: implicit outside a block."""
        transaction = self.transaction
        if transaction is None:
            transaction = self.transaction = self.engine.begin(self._isolation, self._woken)
            transaction.read_only = self._read_only or self.region_read_only
        return transaction

    def begin_block(self, isolation: Isolation | None, read_only: bool | None) -> bool:
        """Open a transaction block. False when one is open already."""
        if self.status != IDLE:
            return False
        self._isolation = isolation or self.planner.isolation_of(self.settings)
        self._read_only = self.settings.get("default_transaction_read_only") == "on" if read_only is None else read_only
        self.transaction_for_write()
        self.status = IN_TRANSACTION
        self._settings_mark = self.settings.mark()
        return True

    def fail_block(self) -> None:
        """A block that the client has been told to be open could not be opened: it has failed from its start."""
        if self.status == IDLE:
            self.status = FAILED

    def set_modes(self, isolation: Isolation | None, read_only: bool | None) -> None:
        """SET TRANSACTION: only before the first query of the block."""
        transaction = self.transaction_for_write()
        if isolation is not None and isolation is not transaction.isolation:
            if transaction.snapshot is not None or transaction.wrote:
                raise OrbitError("SET TRANSACTION ISOLATION LEVEL must be called before any query", sqlstate="25001")
            transaction.isolation = isolation
        if read_only is not None:
            if self.region_read_only and not read_only:
                raise ReadOnly("cannot set transaction read-write mode in a replica region")
            transaction.read_only = read_only

    def roll_back(self) -> None:
        """End the transaction and undo everything."""
        if self._settings_mark is not None:
            self.settings.restore(self._settings_mark)
        if self.transaction is not None:
            self.planner.roll_back(self.transaction)
        self._ended()

    def savepoint(self, name: str) -> None:
        transaction = self._in_block("SAVEPOINT")
        point = Savepoint(name, transaction.savepoint(), transaction.chunks, self.settings.mark())
        self.savepoints.append(point)

    def release(self, name: str) -> None:
        self._in_block("RELEASE SAVEPOINT")
        at = self._find_savepoint(name)
        del self.savepoints[at:]

    def rollback_to(self, name: str) -> None:
        transaction = self._in_block("ROLLBACK TO SAVEPOINT")
        at = self._find_savepoint(name)
        point = self.savepoints[at]
        if transaction.chunks > point.chunks:
            # What COPY has loaded is in the log already, and only the whole transaction can void it.
            raise NotSupported("ROLLBACK TO SAVEPOINT past a COPY is not supported: roll the transaction back")
        del self.savepoints[at + 1 :]
        transaction.rollback_to(point.mark)
        self.settings.restore(point.settings)
        self.status = IN_TRANSACTION

    @property
    def isolation(self) -> Isolation:
        return self.transaction.isolation if self.transaction is not None else self.planner.isolation_of(self.settings)

    def _woken(self, error: OrbitError | None) -> None:
        """The lock that the transaction waited for is held now, or the wait has failed."""
        raise NotImplementedError

    def _ended(self) -> None:
        """The transaction is over, whichever way."""
        self.transaction = None
        self.status = IDLE
        self.savepoints = []
        self._settings_mark = None
        self._isolation = self.planner.isolation_of(self.settings)
        self._read_only = self.settings.get("default_transaction_read_only") == "on"

    def _in_block(self, command: str) -> Transaction:
        if self.status == IDLE:
            raise OrbitError(f"{command} can only be used in transaction blocks", sqlstate="25P01")
        if self.transaction is None:
            raise OrbitError("the failed transaction block has no savepoint", sqlstate="3B001")
        return self.transaction

    def _find_savepoint(self, name: str) -> int:
        for at in range(len(self.savepoints) - 1, -1, -1):
            if self.savepoints[at].name == name:
                return at
        raise OrbitError(f'savepoint "{name}" does not exist', sqlstate="3B001")


def in_failed_block() -> OrbitError:
    """Return the refusal of a statement in a failed block."""
    return TransactionAborted("current transaction is aborted, commands ignored until end of transaction block")
