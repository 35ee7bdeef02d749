"""What a row of a table must satisfy, compiled: defaults, NOT NULL, CHECK.

Owns the compiled form per table definition. Unique keys are the engine's, because they need locks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orbit.kernel.errors import ConstraintViolation
from orbit.kernel.records import Row
from orbit.kernel.schema import Check, Column, Table
from services.storage.sql.bind import BindContext, bind_check, bind_default
from services.storage.sql.evaluate import Evaluate, EvaluationContext, evaluator

RowCheck = Callable[[Row], None]


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
        bound, relation = bind_check(self._context, self.table, check.expression)
        return evaluator(bound, (relation.number,))

    def _default(self, column: Column) -> Evaluate | None:
        if column.default is None:
            return None
        return evaluator(bind_default(self._context, column), ())

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
