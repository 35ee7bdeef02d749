"""Typed errors. Each carries the SQLSTATE that PostgreSQL gives for the same event.

The gateways map an `OrbitError` to their protocol once, at their edge: PostgreSQL sends the SQLSTATE,
Redis a RESP error, REST the HTTP status of the SQLSTATE's class.
"""

from __future__ import annotations

from typing import ClassVar


class OrbitError(Exception):
    """An error that a client may see. `message` is lower case, without a full stop, and holds no secret."""

    default_sqlstate: ClassVar[str] = "XX000"

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str | None = None,
        detail: str | None = None,
        hint: str | None = None,
        position: int | None = None,
        schema: str | None = None,
        table: str | None = None,
        column: str | None = None,
        constraint: str | None = None,
        context: str | None = None,
        severity: str = "ERROR",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate or self.default_sqlstate
        self.detail = detail
        self.hint = hint
        self.position = position
        self.schema = schema
        self.table = table
        self.column = column
        self.constraint = constraint
        self.context = context
        self.severity = severity


class NotSupported(OrbitError):
    """A feature that the engine does not have; the message names it."""

    default_sqlstate = "0A000"


class SyntaxProblem(OrbitError):
    default_sqlstate = "42601"


class InvalidValue(OrbitError):
    """A literal that does not parse as its type (22P02), or lies outside it (22003, 22008)."""

    default_sqlstate = "22P02"


class ConstraintViolation(OrbitError):
    """23502 not null, 23503 foreign key, 23505 unique, 23514 check."""

    default_sqlstate = "23000"


class SerializationFailure(OrbitError):
    default_sqlstate = "40001"


class DeadlockDetected(OrbitError):
    default_sqlstate = "40P01"


class LockNotAvailable(OrbitError):
    default_sqlstate = "55P03"


class QueryCanceled(OrbitError):
    default_sqlstate = "57014"


class TransactionAborted(OrbitError):
    """A statement inside a transaction block that has already failed."""

    default_sqlstate = "25P02"


class ReadOnly(OrbitError):
    """A write on a node or region that takes none."""

    default_sqlstate = "25006"


class NotLeader(OrbitError):
    """This node does not lead the shard; the gateway looks the leader up and tries again."""

    default_sqlstate = "57P03"


class OutcomeUnknown(OrbitError):
    """A commit whose fate the client cannot be told."""

    default_sqlstate = "08007"


class LogUnavailable(OrbitError):
    """The log takes no appends: unreachable (57P03), full (53100), or its durability check failed (58030)."""

    default_sqlstate = "57P03"


class StoreUnavailable(OrbitError):
    """The object store or its catalog did not answer; the message names it."""

    default_sqlstate = "58030"


class DiskFull(OrbitError):
    default_sqlstate = "53100"


class TooManyTransactions(OrbitError):
    default_sqlstate = "53300"


class LogCorrupt(Exception):
    """A gap, a bad checksum, a broken hash chain or an unknown format in the log.

    Not an `OrbitError`: nothing may serve after it. The node stops and a person must look.
    """
