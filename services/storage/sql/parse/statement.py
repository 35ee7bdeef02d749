"""A parsed statement: what kind it is, and its tree or its small parsed form.

Owns the nouns that parsing hands to binding and to the session. `tree` is sqlglot's for statements with
expressions (queries, DML, DDL); the small ones (transaction control, SET, COPY ..) have a `command` of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sqlglot import exp


class Kind(Enum):
    """What a statement does, in the words of the session that runs it."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    CREATE = "create"
    ALTER = "alter"
    DROP = "drop"
    TRUNCATE = "truncate"
    COMMENT = "comment"
    GRANT = "grant"
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "rollback to"
    SET = "set"
    SET_TRANSACTION = "set transaction"
    RESET = "reset"
    SHOW = "show"
    COPY = "copy"
    EXPLAIN = "explain"
    DEALLOCATE = "deallocate"
    DISCARD = "discard"
    LOCK = "lock"
    VACUUM = "vacuum"
    ANALYZE = "analyze"
    CHECKPOINT = "checkpoint"
    ROLE = "role"


@dataclass(frozen=True, slots=True)
class TransactionModes:
    """Modes of BEGIN, START TRANSACTION and SET TRANSACTION; None for what is not said."""

    isolation: str | None = None
    read_only: bool | None = None
    deferrable: bool | None = None


@dataclass(frozen=True, slots=True)
class TransactionCommand:
    """BEGIN .. ROLLBACK TO. `name` is a savepoint's. `chain` is AND CHAIN. `session` is SET SESSION CHARACTERISTICS."""

    modes: TransactionModes = TransactionModes()
    name: str | None = None
    chain: bool = False
    session: bool = False


@dataclass(frozen=True, slots=True)
class SettingCommand:
    """SET, RESET and SHOW. `values` is None for DEFAULT; `name` is `all` for RESET ALL and SHOW ALL."""

    name: str
    values: tuple[str, ...] | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class CopyCommand:
    """COPY. `table` is (schema or None, name), or None for COPY (query). `options` keep PostgreSQL's names."""

    table: tuple[str | None, str] | None
    columns: tuple[str, ...]
    query: Statement | None
    from_client: bool
    options: dict[str, str]


@dataclass(frozen=True, slots=True)
class ExplainCommand:
    statement: Statement
    options: dict[str, str]


@dataclass(frozen=True, slots=True)
class NameCommand:
    """DEALLOCATE, DISCARD, LOCK, VACUUM, ANALYZE: names, with `option` for what follows them.

    `names` is empty for ALL. LOCK: `option` is the mode. DISCARD: `option` is what.
    """

    names: tuple[tuple[str | None, str], ...] = ()
    option: str = ""


@dataclass(frozen=True, slots=True)
class RoleCommand:
    """CREATE, ALTER or DROP ROLE. Options: login, superuser (`true`, `false`), password (None: NULL), `in role`."""

    action: str
    names: tuple[str, ...]
    options: dict[str, str | None]
    if_exists: bool


Command = TransactionCommand | SettingCommand | CopyCommand | ExplainCommand | NameCommand | RoleCommand


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One statement of a text. `sql` is the whole text that positions count in; this one is `sql[start:end]`."""

    kind: Kind
    sql: str
    start: int
    end: int
    tree: exp.Expr | None = None
    command: Command | None = None

    @property
    def text(self) -> str:
        return self.sql[self.start : self.end]
