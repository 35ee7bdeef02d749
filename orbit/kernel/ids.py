"""Identifiers: LSNs, row ids, transaction ids, epochs.

Owns the packing of the two 64-bit log positions that the whole engine shares. Owns no state.

    LSN     | sequence of the record in the shard's log : 43 | index of the transaction in its record : 20 |
    row id  | sequence of the record that inserted it   : 43 | ordinal of the row in that record       : 20 |

Both are positive signed 64-bit integers, so they fit Arrow int64, RocksDB keys and Iceberg `long`.
"""

from __future__ import annotations

import os
from typing import NewType

Lsn = NewType("Lsn", int)
RowId = NewType("RowId", int)
Epoch = NewType("Epoch", int)
ShardId = NewType("ShardId", int)
Sequence = NewType("Sequence", int)
"""Position of one record in a shard's log: 1 for the first record of a timeline."""

INDEX_BITS = 20
INDEX_MASK = (1 << INDEX_BITS) - 1
MAX_SEQUENCE = (1 << (63 - INDEX_BITS)) - 1

ZERO_LSN = Lsn(0)
INFINITY_LSN = Lsn((1 << 63) - 1)
"""End LSN of a version that nothing has ended."""

DEFAULT_SHARD = ShardId(0)
FIRST_TIMELINE = 1


ROW_ID_COLUMN = "_orbit_row_id"
"""Name of the hidden column that carries row ids in cold files and in moves: int64, never NULL."""


def pack(sequence: int, index: int) -> int:
    """Return the 64-bit position of the `index`-th item of the record at `sequence`.

    Raises OverflowError when either part does not fit.
    """
    if not 0 <= index <= INDEX_MASK or not 0 <= sequence <= MAX_SEQUENCE:
        raise OverflowError(f"log position ({sequence}, {index}) does not fit 64 bits")
    return sequence << INDEX_BITS | index


def sequence_of(position: int) -> int:
    """Return the record sequence of an LSN or row id."""
    return position >> INDEX_BITS


def index_of(position: int) -> int:
    """Return the index inside the record of an LSN or row id."""
    return position & INDEX_MASK


def new_transaction_id() -> bytes:
    """Return 16 random bytes that name one transaction across gateways, failovers and regions."""
    return os.urandom(16)
