"""What a row of a table must satisfy, compiled: defaults, NOT NULL, CHECK.

Owns the compiled form per table definition. Unique keys are the engine's, because they need locks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orbit.kernel.errors import ConstraintViolation
from orbit.kernel.records import Row
from orbit.kernel.schema import Check, Column, Table
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import coerce_for_assignment
from services.storage.sql.bind.context import BindContext
from services.storage.sql.bind.expressions import bind, bind_boolean
from services.storage.sql.bind.scope import Scope, ScopeItem, relation_columns
from services.storage.sql.bind.tree import Expression, TableRelation
from services.storage.sql.evaluate import Evaluate, EvaluationContext, evaluator
from services.storage.sql.parse import parse

RowCheck = Callable[[Row], None]


def table_relation(binder: Binder, table: Table, alias: str | None = None) -> TableRelation:
    """Return a table as a relation of the statement."""
    relation = TableRelation(
        number=binder.number(),
        alias=alias or table.name,
        names=tuple(column.name for column in table.columns),
        types=tuple(column.type for column in table.columns),
        table=table,
        system=False,
    )
    binder.tables.append(relation)
    return relation


def relation_scope(*relations: TableRelation) -> Scope:
    """Return the scope in which these relations' columns are names."""
    scope = Scope(parent=None)
    for relation in relations:
        scope.items.append(
            ScopeItem(relation.alias, relation.table.schema, relation, relation_columns(relation))
        )
    return scope


def bind_text(binder: Binder, scope: Scope, text: str, boolean: str | None = None) -> Expression:
    """Bind an expression that the catalog keeps as SQL text."""
    statement = parse(f"SELECT {text}")[0]
    assert statement.tree is not None
    node = statement.tree.expressions[0]
    return bind_boolean(binder, scope, node, boolean) if boolean else bind(binder, scope, node)


class TableRules:
    """One table definition's rules. Rows are in table column order."""

    def __init__(self, context: BindContext, table: Table) -> None:
        self.table = table
        self._context = context
        self._required = [at for at, column in enumerate(table.columns) if not column.nullable]
        self._checks = [(check, self._compile(check)) for check in table.checks]
        self.defaults: list[Evaluate | None] = [self._default(column) for column in table.columns]

    def check(self, row: Row, context: EvaluationContext) -> None:
        """Raise ConstraintViolation (23502, 23514) when the row breaks a rule."""
        for at in self._required:
            if row[at] is None:
                raise self._null(at, row)
        for check, evaluate in self._checks:
            if evaluate((row,), (), context) is False:
                raise ConstraintViolation(
                    f'new row for relation "{self.table.name}" violates check constraint "{check.name}"',
                    sqlstate="23514",
                    detail=f"Failing row contains ({_shown(row)}).",
                    schema=self.table.schema,
                    table=self.table.name,
                    constraint=check.name,
                )

    def default(self, at: int, context: EvaluationContext) -> object:
        """Return the default value of the column at a position: NULL when it has none."""
        evaluate = self.defaults[at]
        return None if evaluate is None else evaluate((), (), context)

    def checks_of(self, checks: Sequence[Check], context: EvaluationContext) -> list[RowCheck]:
        """Return functions that raise for a row that breaks one of these checks."""
        names = {check.name for check in checks}
        return [
            _raiser(self.table, check, evaluate, context) for check, evaluate in self._checks if check.name in names
        ]

    def _compile(self, check: Check) -> Evaluate:
        binder = Binder(self._context)
        relation = table_relation(binder, self.table)
        bound = bind_text(binder, relation_scope(relation), check.expression, "CHECK")
        return evaluator(bound, (relation.number,))

    def _default(self, column: Column) -> Evaluate | None:
        if column.default is None:
            return None
        binder = Binder(self._context)
        bound = bind_text(binder, Scope(parent=None), column.default)
        return evaluator(coerce_for_assignment(binder.parameters, bound, column.name, column.type, None), ())

    def _null(self, at: int, row: Row) -> ConstraintViolation:
        column, table = self.table.columns[at], self.table
        return ConstraintViolation(
            f'null value in column "{column.name}" of relation "{table.name}" violates not-null constraint',
            sqlstate="23502",
            detail=f"Failing row contains ({_shown(row)}).",
            schema=table.schema,
            table=table.name,
            column=column.name,
        )


def _raiser(table: Table, check: Check, evaluate: Evaluate, context: EvaluationContext) -> RowCheck:
    def run(row: Row) -> None:
        if evaluate((row,), (), context) is False:
            raise ConstraintViolation(
                f'check constraint "{check.name}" of relation "{table.name}" is violated by some row',
                sqlstate="23514",
                schema=table.schema,
                table=table.name,
                constraint=check.name,
            )

    return run


def _shown(row: Row) -> str:
    return ", ".join("null" if value is None else str(value) for value in row)


