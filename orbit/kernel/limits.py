"""Named limits of queues, buffers, records and timeouts, with their units; relations are asserted at import.

Limits that an operator tunes are configuration instead (`orbit.chassis.config`).
"""

from __future__ import annotations

from typing import Final

LOG_MAX_PAYLOAD_BYTES: Final = 1_048_576
"""The log server's max_payload: no record, headers included, may be larger."""

RECORD_TARGET_BYTES: Final = 900_000
"""A group is closed, and a bulk piece cut, before its record grows past this."""

LARGE_TRANSACTION_BYTES: Final = 512_000
"""Transactions with more effects than this stream CHUNK records ahead of their COMMIT."""

LARGE_TRANSACTION_ROWS: Final = 4_096
"""Transactions that change more rows stream CHUNK records without trying one record first."""

GROUP_MAX_TRANSACTIONS: Final = 4_096
"""Transactions in one GROUP record."""

REMEMBERED_TRANSACTIONS: Final = 100_000
"""Transaction ids kept to answer what became of a commit."""

SEAL_AT_ROWS: Final = 32_768
"""Rows in a table's tail at which sealing starts."""

SEAL_ROWS: Final = 16_384
"""Rows that one sealing step moves into a segment: bounds how long it holds the event loop."""

MAX_RECORD_ROWS: Final = 1 << 20
"""Rows that one record inserts: their ordinals are a row id's lower 20 bits."""

ROW_CHANGE_MAX_BYTES: Final = 1_000_000
"""One changed row with its image before: it must fit a record of its own, with the envelope around it."""

ROCKSDB_PIECE_BYTES: Final = 4 * 1024 * 1024
"""Values put into RocksDB are cut at this size: a put holds the interpreter's lock."""

APPLY_TURN_S: Final = 0.005
"""How long a follower applies records before it lets the event loop turn."""

SEQUENCE_BLOCK: Final = 256
"""Values of a sequence that one log record reserves; what is left of a block at a failover is skipped."""

PLAN_CACHE_ENTRIES: Final = 4_096
"""Plans kept per catalog and search path; the cache starts anew when it is full."""

LEADER_WAIT_S: Final = 15.0
"""How long a gateway holds a request while no storage node leads the shard."""

CATCH_UP_RETRY_S: Final = 0.2
"""Pause between attempts to seal a log that does not answer."""

COPY_PIECE_BYTES: Final = 860_000
"""One piece of COPY input, compressed: fits a record of its own with the envelope around it."""

assert ROW_CHANGE_MAX_BYTES < LOG_MAX_PAYLOAD_BYTES - 16_384
assert COPY_PIECE_BYTES < RECORD_TARGET_BYTES
assert RECORD_TARGET_BYTES < LOG_MAX_PAYLOAD_BYTES
assert LARGE_TRANSACTION_BYTES < RECORD_TARGET_BYTES
assert SEAL_ROWS < SEAL_AT_ROWS
