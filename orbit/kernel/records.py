"""Log records: what a shard's log holds, and their bytes.

Owns the envelope, the effects and the checks. Knows nothing of NATS.

    +--------+---------------------------------------------------------------------------------------+
    | crc32  | msgpack [format, kind, timeline, epoch, schema_version, time_us, previous_hash, body] |
    | 4 B    |                                                                                       |
    +--------+---------------------------------------------------------------------------------------+

`previous_hash` is BLAKE2b-128 of the whole previous record, so that a reader notices a gap or a foreign record.
A GROUP's body is a list of transactions; a transaction is a list of effects: row images and reservations,
never statements. The commit time of the transaction at `index` is `time_us + index`.

Row values are msgpack natives; numeric travels as text and interval as three integers (see `RowCodec`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import IntEnum
from hashlib import blake2b
from typing import Any

import msgspec

from orbit.kernel.errors import LogCorrupt
from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.schema import CatalogChange, Column
from orbit.kernel.types import Oid

FORMAT = 1
GENESIS_HASH = bytes(16)
Row = tuple[Any, ...]


class Kind(IntEnum):
    """What a record is. Numbers are forever."""

    NOOP = 0
    EPOCH = 1
    GROUP = 2
    CHUNK = 3
    TICK = 4
    CURSOR = 5
    TRIM = 6
    HORIZON = 7
    MOVE_BEGIN = 8
    COLD_COMMIT = 9
    ABORT_MOVE = 10


# Effects of a transaction. Array-like and tagged by number: small on the wire, fast to decode.


class Insert(msgspec.Struct, array_like=True, tag=0):
    """New rows of a table's storage; the row id of the n-th inserted row of the *record* is pack(sequence, n)."""

    storage_id: int
    rows: Sequence[Sequence[Any]]


class Update(msgspec.Struct, array_like=True, tag=1):
    """A new image of one row. `before` is the image that it replaces (change feeds and regions need it)."""

    storage_id: int
    row_id: int
    before: Sequence[Any]
    after: Sequence[Any]


class Delete(msgspec.Struct, array_like=True, tag=2):
    storage_id: int
    row_id: int
    before: Sequence[Any]


class BulkInsert(msgspec.Struct, array_like=True, tag=3):
    """Many new rows as one zstd-compressed Arrow IPC stream of one batch, in storage column types."""

    storage_id: int
    row_count: int
    arrow: bytes


class CatalogChanged(msgspec.Struct, array_like=True, tag=4):
    changes: list[CatalogChange]


class SequenceReserved(msgspec.Struct, array_like=True, tag=5):
    """Values up to and including `through` may have been handed out."""

    sequence_id: int
    through: int


class ChunksCommitted(msgspec.Struct, array_like=True, tag=6):
    """Makes the CHUNK records of this transaction visible at this transaction's LSN, before its other effects.

    `digest` is BLAKE2b-128 over what `digested` gives of their effects in order.
    """

    count: int
    digest: bytes


Effect = Insert | Update | Delete | BulkInsert | CatalogChanged | SequenceReserved | ChunksCommitted


class Transaction(msgspec.Struct, array_like=True):
    """One committed transaction. `origin` is '' or the (region, timeline, LSN) that it was replicated from."""

    id: bytes
    effects: list[Effect]
    origin: str = ""


class EpochBody(msgspec.Struct, array_like=True):
    """A leader's first record: its node and the address that gateways reach it at."""

    epoch: int
    node: str


CHUNK_ABORT = -1


class ChunkBody(msgspec.Struct, array_like=True):
    """A part of a large transaction, counted from 0; CHUNK_ABORT says that its transaction has rolled back.

    Effects are bulk inserts, inserts, updates and deletes; the n-th row inserted by the record has the row id
    pack(its sequence, n).
    """

    transaction_id: bytes
    number: int
    effects: list[Effect]


class CursorBody(msgspec.Struct, array_like=True):
    """Registers or drops (lsn < 0) a cursor that trim must respect."""

    name: str
    lsn: int


class TrimBody(msgspec.Struct, array_like=True):
    through_sequence: int


class HorizonBody(msgspec.Struct, array_like=True):
    """The oldest LSN that can still be read."""

    lsn: int


class MoveBegin(msgspec.Struct, array_like=True):
    """Claims rows of a table for a move to the cold tier: row ids in [first, last], as sorted disjoint ranges.

    Only versions with begin_lsn <= `changed_through` are claimed: an updated row keeps its id in a newer segment,
    which is not to move with the old one.
    """

    move_id: bytes
    table_id: int
    storage_id: int
    ranges: list[tuple[int, int]]
    changed_through: int = INFINITY_LSN


class ColdCommit(msgspec.Struct, array_like=True):
    """The claimed rows alive at `as_of` are in the Iceberg snapshot: evict exactly those versions."""

    move_id: bytes
    as_of: int
    snapshot_id: int
    metadata_location: str


class AbortMove(msgspec.Struct, array_like=True):
    move_id: bytes
    reason: str


Body = (
    EpochBody
    | list[Transaction]
    | ChunkBody
    | CursorBody
    | TrimBody
    | HorizonBody
    | MoveBegin
    | ColdCommit
    | AbortMove
    | None
)

_BODY_TYPES: dict[int, Any] = {
    Kind.NOOP: None,
    Kind.EPOCH: EpochBody,
    Kind.GROUP: list[Transaction],
    Kind.CHUNK: ChunkBody,
    Kind.TICK: None,
    Kind.CURSOR: CursorBody,
    Kind.TRIM: TrimBody,
    Kind.HORIZON: HorizonBody,
    Kind.MOVE_BEGIN: MoveBegin,
    Kind.COLD_COMMIT: ColdCommit,
    Kind.ABORT_MOVE: AbortMove,
}


class Record(msgspec.Struct, array_like=True):
    """One record, decoded. `hash` of the encoded bytes is what the next record names as `previous_hash`."""

    format: int
    kind: int
    timeline: int
    epoch: int
    schema_version: int
    time_us: int
    previous_hash: bytes
    body: Any


class _Envelope(msgspec.Struct, array_like=True):
    format: int
    kind: int
    timeline: int
    epoch: int
    schema_version: int
    time_us: int
    previous_hash: bytes
    body: msgspec.Raw


_encode = msgspec.msgpack.Encoder(decimal_format="string").encode
_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
_decode_body = {kind: msgspec.msgpack.Decoder(body).decode for kind, body in _BODY_TYPES.items()}


def encode(record: Record) -> bytes:
    """Return the record's bytes, checksum first."""
    body = _encode(record)
    return zlib.crc32(body).to_bytes(4, "big") + body


def decode(data: bytes) -> Record:
    """Return the record. Raises LogCorrupt on a bad checksum, an unknown format or an unknown kind."""
    body = memoryview(data)[4:]
    if len(data) < 8 or zlib.crc32(body) != int.from_bytes(data[:4], "big"):
        raise LogCorrupt("record checksum does not match")
    try:
        envelope = _decode_envelope(body)
        if envelope.format != FORMAT or envelope.kind not in _decode_body:
            raise LogCorrupt(f"record of unknown format {envelope.format} or kind {envelope.kind}")
        payload = _decode_body[envelope.kind](envelope.body)
    except msgspec.DecodeError as error:
        raise LogCorrupt(f"record does not decode: {error}") from error
    return Record(
        envelope.format,
        envelope.kind,
        envelope.timeline,
        envelope.epoch,
        envelope.schema_version,
        envelope.time_us,
        envelope.previous_hash,
        payload,
    )


def digested(effect: Effect) -> bytes:
    """Return what `ChunksCommitted.digest` covers of a chunk's effect; the same before and after decoding."""
    return effect.arrow if isinstance(effect, BulkInsert) else _encode(effect)


def effect_size(effect: Effect | Sequence[Any]) -> int:
    """Return the bytes that an effect, or one row of it, takes in a record."""
    return len(_encode(effect))


def record_hash(data: bytes) -> bytes:
    """Return the 16 bytes by which the next record names this one."""
    return blake2b(data, digest_size=16).digest()


class RowCodec:
    """Turns one table's rows between Python values and record values.

    `pack` is only needed for nothing: msgspec writes Decimal as text and tuples as arrays by itself.
    `unpack` makes tuples of the decoded lists and restores Decimal and interval values.
    """

    __slots__ = ("unpack",)

    def __init__(self, columns: Sequence[Column]) -> None:
        fixes: list[tuple[int, Callable[[Any], Any]]] = []
        for at, column in enumerate(columns):
            if column.type.oid == Oid.NUMERIC:
                fixes.append((at, Decimal))
            elif column.type.oid == Oid.INTERVAL:
                fixes.append((at, tuple))
        self.unpack: Callable[[Sequence[Any]], Row] = _unpacker(fixes) if fixes else tuple


def _unpacker(fixes: list[tuple[int, Callable[[Any], Any]]]) -> Callable[[Sequence[Any]], Row]:
    def unpack(values: Sequence[Any]) -> Row:
        row = list(values)
        for at, make in fixes:
            if row[at] is not None:
                row[at] = make(row[at])
        return tuple(row)

    return unpack
