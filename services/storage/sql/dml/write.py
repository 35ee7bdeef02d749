"""INSERT, UPDATE and DELETE as plans.

Owns the order within a statement: find the rows, take every lock, check, then write. A statement that has to wait
for a lock has written nothing yet, so it runs again from the top when the lock is granted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import OrbitError
from orbit.kernel.records import Row
from orbit.kernel.schema import Table
from orbit.kernel.types import SqlType
from services.storage.client import ColumnDescription
from services.storage.engine import Engine
from services.storage.sql.answer import command_complete
from services.storage.sql.dml.binding import Assignment, BoundChange, BoundInsert, Conflict, Returning
from services.storage.sql.dml.lookup import KeyLookup, key_lookup
from services.storage.sql.dml.rules import TableRules
from services.storage.sql.evaluate import Evaluate, EvaluationContext, evaluator
from services.storage.tiers.table import TableStore, UniqueIndex
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

Parameters = Sequence[Any]
Found = list[tuple[int, Row]]


@dataclass(frozen=True, slots=True)
class KeyFinder:
    """Finds at most one row by a unique key."""

    index_id: int
    values: tuple[Evaluate, ...]
    rest: tuple[Evaluate, ...]

    def find(
        self,
        engine: Engine,
        transaction: Transaction | None,
        store: TableStore,
        parameters: Parameters,
        context: EvaluationContext,
    ) -> Found:
        index = store.indexes[self.index_id]
        if len(self.values) == 1:
            key = self.values[0]((), parameters, context)
            absent = key is None
        else:
            key = tuple([value((), parameters, context) for value in self.values])
            absent = None in key
        found = None if absent else engine.find(transaction, store, index, key)
        if found is None:
            return []
        for test in self.rest:
            if test((found[1],), parameters, context) is not True:
                return []
        return [found]


@dataclass(frozen=True, slots=True)
class ScanFinder:
    """Finds rows by looking at each of them."""

    where: Evaluate | None

    def find(
        self,
        engine: Engine,
        transaction: Transaction | None,
        store: TableStore,
        parameters: Parameters,
        context: EvaluationContext,
    ) -> Found:
        where = self.where
        rows = engine.rows(transaction, store)
        if where is None:
            return list(rows)
        return [item for item in rows if where((item[1],), parameters, context) is True]


Finder = KeyFinder | ScanFinder


def make_finder(lookup: KeyLookup | None, where: Any, relation: int) -> Finder:
    """Return how to find the rows of a WHERE clause over one relation."""
    if lookup is None:
        return ScanFinder(None if where is None else evaluator(where, (relation,)))
    return KeyFinder(
        lookup.index_id,
        tuple(evaluator(value, ()) for value in lookup.values),
        tuple(evaluator(part, (relation,)) for part in lookup.rest),
    )


@dataclass(frozen=True, slots=True)
class CompiledReturning:
    columns: tuple[ColumnDescription, ...]
    values: tuple[Evaluate, ...]


def _compile_returning(returning: Returning | None, relation: int) -> CompiledReturning | None:
    if returning is None:
        return None
    return CompiledReturning(returning.columns, tuple(evaluator(item, (relation,)) for item in returning.expressions))


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePlan:
    """What the three statements share."""

    table: Table
    rules: TableRules
    returning: CompiledReturning | None
    parameter_types: tuple[SqlType, ...]
    privileges: tuple[str, ...]
    in_failed_block: bool = False
    tag: str = ""

    @property
    def is_point(self) -> bool:
        """Whether the statement touches few rows: then its literals may become parameters of one shared plan."""
        return True

    @property
    def columns(self) -> tuple[ColumnDescription, ...] | None:
        return None if self.returning is None else self.returning.columns

    def enter(self, session: StorageSession) -> tuple[Transaction, TableStore] | None:
        """Check privileges and take the table's lock. None: queued."""
        transaction = session.transaction_for_write()
        for privilege in self.privileges:
            session.planner.need_privilege(session, self.table, privilege)
        store = session.engine.store(transaction, self.table)
        return (transaction, store) if session.engine.enter(transaction, store) else None

    def answer(
        self,
        session: StorageSession,
        rows: Sequence[Row],
        count: int,
        parameters: Parameters,
        formats: Sequence[int],
        context: EvaluationContext,
    ) -> bytes:
        complete = command_complete(f"{self.tag} {count}")
        returning = self.returning
        if returning is None:
            return complete
        encode = session.encoder(returning.columns, formats)
        messages = [encode(tuple([value((row,), parameters, context) for value in returning.values])) for row in rows]
        return b"".join(messages) + complete


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePlan(WritePlan):
    """UPDATE, or DELETE when `assign` is None."""

    finder: Finder
    assign: Callable[[Row, Parameters, EvaluationContext], Row] | None

    @property
    def is_point(self) -> bool:
        return isinstance(self.finder, KeyFinder)

    def run(self, session: StorageSession, parameters: Parameters, formats: Sequence[int]) -> bytes | None:
        entered = self.enter(session)
        if entered is None:
            return None
        transaction, store = entered
        engine, context = session.engine, session.evaluation_context()
        engine.snapshot(transaction)
        found = self.finder.find(engine, transaction, store, parameters, context)
        for row_id, _ in found:
            if not engine.lock_row(transaction, store, row_id):
                return None
        if self.assign is None:
            rows = self._delete(engine, transaction, store, found)
        else:
            rows = self._update(engine, transaction, store, found, parameters, context)
        return None if rows is None else self.answer(session, rows, len(found), parameters, formats, context)

    def _delete(self, engine: Engine, transaction: Transaction, store: TableStore, found: Found) -> list[Row] | None:
        for index in store.indexes.values():
            for _, row in found:
                if not engine.lock_key(transaction, index, index.key_of(row)):
                    return None
        for row_id, row in found:
            engine.delete(transaction, store, row_id, row)
        return [row for _, row in found]

    def _update(
        self,
        engine: Engine,
        transaction: Transaction,
        store: TableStore,
        found: Found,
        parameters: Parameters,
        context: EvaluationContext,
    ) -> list[Row] | None:
        assert self.assign is not None
        changes: list[tuple[int, Row, Row]] = []
        for row_id, row in found:
            after = self.assign(row, parameters, context)
            self.rules.check(after, context)
            changes.append((row_id, row, after))
        keys = [(row_id, engine.changed_keys(store, row, after)) for row_id, row, after in changes]
        for _, changed in keys:
            for index, old, new in changed:
                if not engine.lock_key(transaction, index, old) or not engine.lock_key(transaction, index, new):
                    return None
        for (row_id, row, after), (_, changed) in zip(changes, keys, strict=True):
            for index, _, new in changed:
                engine.check_unique(transaction, store, index, new, row_id)
            engine.update(transaction, store, row_id, row, after)
        return [after for _, _, after in changes]


@dataclass(frozen=True, slots=True)
class CompiledConflict:
    index: UniqueIndexId | None
    assign: Callable[[Row, Row, Parameters, EvaluationContext], Row] | None
    where: Evaluate | None


UniqueIndexId = int


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertPlan(WritePlan):
    """INSERT of VALUES, or of a query's rows through `source`."""

    make_rows: Callable[[Parameters, EvaluationContext], list[Row]] | None
    source: Any = None
    """The plan of the query, when there is one; its rows arrive through `insert_rows`."""
    convert: Callable[[Row, EvaluationContext], Row] | None = None
    conflict: CompiledConflict | None = field(default=None)

    @property
    def is_point(self) -> bool:
        return self.make_rows is not None

    def run(self, session: StorageSession, parameters: Parameters, formats: Sequence[int]) -> bytes | None:
        context = session.evaluation_context()
        if self.make_rows is None:
            return self._run_query(session, parameters, formats, context)
        return self.insert_rows(session, self.make_rows(parameters, context), parameters, formats, context)

    def _run_query(
        self, session: StorageSession, parameters: Parameters, formats: Sequence[int], context: EvaluationContext
    ) -> bytes | None:
        convert = self.convert
        assert convert is not None
        known = session.query_rows
        if known is None:
            self.source.fetch(session, parameters)
            return None
        answer = self.insert_rows(session, [convert(row, context) for row in known], parameters, formats, context)
        if answer is not None:
            session.query_rows = None
        return answer

    def insert_rows(
        self,
        session: StorageSession,
        rows: list[Row],
        parameters: Parameters,
        formats: Sequence[int],
        context: EvaluationContext,
    ) -> bytes | None:
        entered = self.enter(session)
        if entered is None:
            return None
        transaction, store = entered
        engine = session.engine
        engine.snapshot(transaction)
        indexes = list(store.indexes.values())
        for row in rows:
            self.rules.check(row, context)
            for index in indexes:
                if not engine.lock_key(transaction, index, index.key_of(row)):
                    return None
        if self.conflict is None:
            for row in rows:
                for index in indexes:
                    engine.check_unique(transaction, store, index, index.key_of(row), None)
                engine.insert(transaction, store, row)
            return self.answer(session, rows, len(rows), parameters, formats, context)
        written = self._resolve(engine, transaction, store, rows, parameters, context)
        return None if written is None else self.answer(session, written, len(written), parameters, formats, context)

    def _resolve(
        self,
        engine: Engine,
        transaction: Transaction,
        store: TableStore,
        rows: list[Row],
        parameters: Parameters,
        context: EvaluationContext,
    ) -> list[Row] | None:
        conflict = self.conflict
        assert conflict is not None
        arbiters = [store.indexes[conflict.index]] if conflict.index is not None else list(store.indexes.values())
        others = [index for index in store.indexes.values() if index not in arbiters]
        found = [_first_conflict(engine, transaction, store, arbiters, row) for row in rows]
        if conflict.assign is not None:
            for hit in found:
                if hit is not None and not engine.lock_row(transaction, store, hit[0]):
                    return None
        written: list[Row] = []
        touched: set[int] = set()
        for row in rows:
            hit = _first_conflict(engine, transaction, store, arbiters, row)
            if hit is None:
                for index in others:
                    engine.check_unique(transaction, store, index, index.key_of(row), None)
                touched.add(engine.insert(transaction, store, row))
                written.append(row)
            elif conflict.assign is not None:
                if hit[0] in touched:
                    raise OrbitError(
                        "ON CONFLICT DO UPDATE command cannot affect row a second time",
                        sqlstate="21000",
                        hint="Ensure that no rows proposed for insertion within the same command have duplicate "
                        "constrained values.",
                    )
                after = self._update_conflicting(engine, transaction, store, hit, row, parameters, context)
                if after is not None:
                    touched.add(hit[0])
                    written.append(after)
        return written

    def _update_conflicting(
        self,
        engine: Engine,
        transaction: Transaction,
        store: TableStore,
        hit: tuple[int, Row],
        proposed: Row,
        parameters: Parameters,
        context: EvaluationContext,
    ) -> Row | None:
        conflict = self.conflict
        assert conflict is not None and conflict.assign is not None
        if conflict.where is not None and conflict.where((hit[1], proposed), parameters, context) is not True:
            return None
        after = conflict.assign(hit[1], proposed, parameters, context)
        self.rules.check(after, context)
        for index, old, new in engine.changed_keys(store, hit[1], after):
            if not engine.lock_key(transaction, index, old) or not engine.lock_key(transaction, index, new):
                raise OrbitError(
                    "ON CONFLICT DO UPDATE that changes a contended unique key is not supported", sqlstate="0A000"
                )
            engine.check_unique(transaction, store, index, new, hit[0])
        engine.update(transaction, store, hit[0], hit[1], after)
        return after


def _first_conflict(
    engine: Engine, transaction: Transaction, store: TableStore, arbiters: Sequence[UniqueIndex], row: Row
) -> tuple[int, Row] | None:
    for index in arbiters:
        key = index.key_of(row)
        found = engine.find_newest(transaction, store, index, key) if index.indexes(key) else None
        if found is not None:
            return found
    return None


# Compilation.


def compile_change(bound: BoundChange, rules: TableRules, parameter_types: tuple[SqlType, ...]) -> ChangePlan:
    """Return the plan of a bound UPDATE or DELETE."""
    relation, table = bound.relation.number, bound.relation.table
    lookup = key_lookup(bound.where, relation, table)
    deletes = bound.assignments is None
    privileges: tuple[str, ...] = ("DELETE",) if deletes else ("UPDATE",)
    if bound.where is not None or bound.returning is not None:
        privileges = (*privileges, "SELECT")
    return ChangePlan(
        table=table,
        rules=rules,
        returning=_compile_returning(bound.returning, relation),
        parameter_types=parameter_types,
        privileges=privileges,
        tag="DELETE" if deletes else "UPDATE",
        finder=make_finder(lookup, bound.where, relation),
        assign=None if bound.assignments is None else _assigner(bound.assignments, rules, (relation,)),
    )


def _assigner(
    assignments: tuple[Assignment, ...], rules: TableRules, relations: tuple[int, ...]
) -> Callable[[Row, Parameters, EvaluationContext], Row]:
    compiled = [(at, None if value is None else evaluator(value, relations)) for at, value in assignments]

    def assign(row: Row, parameters: Parameters, context: EvaluationContext) -> Row:
        values = list(row)
        environment = (row,)
        for at, value in compiled:
            values[at] = rules.default(at, context) if value is None else value(environment, parameters, context)
        return tuple(values)

    return assign


def compile_insert(
    bound: BoundInsert, rules: TableRules, parameter_types: tuple[SqlType, ...], source: Any
) -> InsertPlan:
    """Return the plan of a bound INSERT. `source` is the plan of its query, if it has one."""
    relation, table = bound.relation.number, bound.relation.table
    conflict = None if bound.conflict is None else _compile_conflict(bound.conflict, rules, relation)
    privileges: tuple[str, ...] = ("INSERT",)
    if conflict is not None and conflict.assign is not None:
        privileges = ("INSERT", "UPDATE", "SELECT")
    elif bound.returning is not None:
        privileges = ("INSERT", "SELECT")
    return InsertPlan(
        table=table,
        rules=rules,
        returning=_compile_returning(bound.returning, relation),
        parameter_types=parameter_types,
        privileges=privileges,
        tag="INSERT 0",
        make_rows=None if bound.query is not None else _row_maker(bound, rules),
        source=source,
        convert=None if bound.query is None else _row_converter(bound, rules),
        conflict=conflict,
    )


def _row_maker(bound: BoundInsert, rules: TableRules) -> Callable[[Parameters, EvaluationContext], list[Row]]:
    width = len(bound.relation.table.columns)
    given = set(bound.positions)
    missing = [at for at in range(width) if at not in given]
    rows = [
        [(at, None if value is None else evaluator(value, ())) for at, value in zip(bound.positions, row, strict=True)]
        for row in bound.rows
    ]

    def make(parameters: Parameters, context: EvaluationContext) -> list[Row]:
        made: list[Row] = []
        for row in rows:
            values: list[Any] = [None] * width
            for at, value in row:
                values[at] = rules.default(at, context) if value is None else value((), parameters, context)
            for at in missing:
                values[at] = rules.default(at, context)
            made.append(tuple(values))
        return made

    return make


def _row_converter(bound: BoundInsert, rules: TableRules) -> Callable[[Row, EvaluationContext], Row]:
    width = len(bound.relation.table.columns)
    casts = [(at, evaluator(cast, (0,))) for at, cast in zip(bound.positions, bound.casts, strict=True)]
    given = set(bound.positions)
    missing = [at for at in range(width) if at not in given]

    def convert(row: Row, context: EvaluationContext) -> Row:
        values: list[Any] = [None] * width
        environment = (row,)
        for at, cast in casts:
            values[at] = cast(environment, (), context)
        for at in missing:
            values[at] = rules.default(at, context)
        return tuple(values)

    return convert


def _compile_conflict(conflict: Conflict, rules: TableRules, relation: int) -> CompiledConflict:
    relations = (relation, conflict.excluded)
    if conflict.assignments is None:
        return CompiledConflict(None if conflict.index is None else conflict.index.id, None, None)
    compiled = [(at, None if value is None else evaluator(value, relations)) for at, value in conflict.assignments]

    def assign(row: Row, proposed: Row, parameters: Parameters, context: EvaluationContext) -> Row:
        values = list(row)
        environment = (row, proposed)
        for at, value in compiled:
            values[at] = rules.default(at, context) if value is None else value(environment, parameters, context)
        return tuple(values)

    assert conflict.index is not None
    where = None if conflict.where is None else evaluator(conflict.where, relations)
    return CompiledConflict(conflict.index.id, assign, where)
