"""The tables that hold Redis data, as the DDL that storage runs at its first start in schema `redis`.

Owns the tables' shape. What commands do with them is in `services.gateway.protocols.redis`.

A key is one row of `redis.keys`, so it has exactly one type, and GET and SET are one point statement each.

| column     | string      | hash                                        |
|------------|-------------|---------------------------------------------|
| type       | `string`    | `hash`                                      |
| value      | the value   | NULL                                        |
| size       | 0           | rows of `redis.hash` that belong to the key |
| expires_at | NULL: never | NULL: never                                 |

Writers of a hash lock its row in `redis.keys` first. A row whose `expires_at` has passed is no longer there for
anyone; a sweep deletes it. `size` above 0 in a row of type `string` marks fields that a SET left behind: the
next writer, or the sweep, deletes them. The type `none` never outlives the transaction that wrote it.
"""

from __future__ import annotations

from typing import Final

REDIS_TABLES: Final[tuple[str, ...]] = (
    """CREATE TABLE redis.keys (
    key bytea NOT NULL,
    type text NOT NULL,
    value bytea,
    size bigint NOT NULL,
    expires_at timestamp with time zone,
    PRIMARY KEY (key)
)""",
    """CREATE TABLE redis.hash (
    key bytea NOT NULL,
    field bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (key, field)
)""",
)
"""CREATE TABLE statements, in order. Schema `redis` must be there."""
