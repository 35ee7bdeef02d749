"""Large transactions: their effects as CHUNK records between other commits, then the record that makes them visible.

Owns the cutting into pieces and their order. The transaction keeps its locks until the last record is in the log; when
a piece is refused it fails as a whole, and the engine voids what is in the log already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orbit.kernel import records
from orbit.kernel.errors import OrbitError
from orbit.kernel.limits import LARGE_TRANSACTION_BYTES, LARGE_TRANSACTION_ROWS, MAX_RECORD_ROWS, ROW_CHANGE_MAX_BYTES
from orbit.kernel.records import Kind
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.txn.committer import Committed, Committer

RowChange = records.Insert | records.Update | records.Delete | records.BulkInsert


def is_large(transaction: Transaction) -> bool:
    """Return whether a transaction changes so many rows that its record should not even be tried."""
    return sum(map(len, transaction.writes.values())) > LARGE_TRANSACTION_ROWS


class LargeCommit:
    """One large transaction on its way into the log."""

    def __init__(self, committer: Committer, transaction: Transaction, done: Committed) -> None:
        self._committer = committer
        self._transaction = transaction
        self._done = done
        effects = list(transaction.effects())
        self._rest = [effect for effect in effects if not isinstance(effect, (RowChange, records.ChunksCommitted))]
        self._pieces = _pieces([effect for effect in effects if isinstance(effect, RowChange)])

    def start(self) -> None:
        """Append the first piece; each next one follows when it is in the log."""
        self._next(0)

    def _next(self, outcome: int | OrbitError) -> None:
        if isinstance(outcome, OrbitError):
            self._done(outcome)
            return
        transaction = self._transaction
        try:
            piece = next(self._pieces, None)
        except OrbitError as error:
            self._done(error)
            return
        if piece is None:
            committed = records.ChunksCommitted(transaction.chunks, transaction.chunk_digest.digest())
            self._committer.commit_effects(transaction, [*self._rest, committed], self._done)
            return
        body = records.ChunkBody(transaction.id, transaction.chunks, list(piece))
        transaction.chunks += 1
        for effect in piece:
            transaction.chunk_digest.update(records.digested(effect))
        self._committer.append(Kind.CHUNK, body, self._next)


def _pieces(effects: list[RowChange]) -> Iterator[list[RowChange]]:
    """Cut row changes into pieces of about LARGE_TRANSACTION_BYTES. Raises 54000 for a row that fits no record."""
    piece: list[RowChange] = []
    size = rows = 0
    for effect in effects:
        for part, part_size, part_rows in _parts(effect):
            if piece and (size + part_size > LARGE_TRANSACTION_BYTES or rows + part_rows > MAX_RECORD_ROWS):
                yield piece
                piece, size, rows = [], 0, 0
            piece.append(part)
            size += part_size
            rows += part_rows
    if piece:
        yield piece


def _parts(effect: RowChange) -> Iterator[tuple[RowChange, int, int]]:
    """Yield an effect, or an insert of many rows in parts, with their bytes and rows."""
    if not isinstance(effect, records.Insert):
        yield effect, _checked(effect), 1
        return
    part: list[Any] = []
    size = 0
    for row in effect.rows:
        row_size = _checked(row)
        if part and size + row_size > LARGE_TRANSACTION_BYTES // 4:
            yield records.Insert(effect.storage_id, part), size, len(part)
            part, size = [], 0
        part.append(row)
        size += row_size
    if part:
        yield records.Insert(effect.storage_id, part), size, len(part)


def _checked(item: Any) -> int:
    size = records.effect_size(item)
    if size > ROW_CHANGE_MAX_BYTES:
        raise OrbitError(
            f"row is too large: the change takes {size} bytes in the log, the limit is {ROW_CHANGE_MAX_BYTES}",
            sqlstate="54000",
        )
    return size
