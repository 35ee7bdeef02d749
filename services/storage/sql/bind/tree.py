"""The bound query: a tree in which every name is resolved and every expression has its PostgreSQL type.

Owns the nodes and walks over them. Binding makes them, `evaluate` compiles them to Python, `scan` writes them as
DuckDB's SQL. They hold no text of the query and no catalog.

Each relation of a query (a table in FROM, a subquery, a CTE reference, a function) has a number that is unique in the
whole statement, so a correlated reference is an ordinary `ColumnRef` to a relation of an outer query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from orbit.kernel.schema import Table
from orbit.kernel.types import SqlType
from services.storage.client import ColumnDescription
from services.storage.sql.bind.signatures import Signature


@dataclass(frozen=True, slots=True)
class Expression:
    """A value of a known type."""

    type: SqlType


@dataclass(frozen=True, slots=True)
class Const(Expression):
    """A literal; `value` is a row value as `orbit.kernel.types` lists them, None for NULL."""

    value: Any


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    """`$n`; `index` counts from 0."""

    index: int


@dataclass(frozen=True, slots=True)
class ColumnRef(Expression):
    """A column of a relation; `column` is its position there, from 0."""

    relation: int
    column: int
    name: str


@dataclass(frozen=True, slots=True)
class FunctionCall(Expression):
    """A function or an operator. The arguments already have the signature's types."""

    signature: Signature
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Cast(Expression):
    """A conversion that changes the value or its modifier. `explicit` casts cut text to its length in silence."""

    arg: Expression
    explicit: bool


@dataclass(frozen=True, slots=True)
class Relabel(Expression):
    """The same value under a binary-compatible type (varchar as text, for example)."""

    arg: Expression


@dataclass(frozen=True, slots=True)
class BoolExpr(Expression):
    """AND or OR over two or more arguments, in order."""

    operator: str
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class NotExpr(Expression):
    arg: Expression


@dataclass(frozen=True, slots=True)
class NullTest(Expression):
    """IS NULL, or IS NOT NULL when `negated`."""

    arg: Expression
    negated: bool


@dataclass(frozen=True, slots=True)
class BoolTest(Expression):
    """IS TRUE, IS FALSE (`value`), IS UNKNOWN (None), or their negation."""

    arg: Expression
    value: bool | None
    negated: bool


@dataclass(frozen=True, slots=True)
class DistinctTest(Expression):
    """IS DISTINCT FROM, or IS NOT DISTINCT FROM when `negated`. `signature` is that of `=`."""

    left: Expression
    right: Expression
    signature: Signature
    negated: bool


@dataclass(frozen=True, slots=True)
class CaseExpr(Expression):
    """Searched CASE; the simple form is bound to it. The conditions are boolean."""

    branches: tuple[tuple[Expression, Expression], ...]
    default: Expression


@dataclass(frozen=True, slots=True)
class Coalesce(Expression):
    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class NullIf(Expression):
    """NULLIF: NULL when left = right, else `left`, as converted for the comparison."""

    left: Expression
    compared_left: Expression
    compared_right: Expression
    signature: Signature


@dataclass(frozen=True, slots=True)
class Extreme(Expression):
    """GREATEST or LEAST: NULLs are skipped. `signature` is that of `<`."""

    name: str
    args: tuple[Expression, ...]
    signature: Signature


@dataclass(frozen=True, slots=True)
class InList(Expression):
    """`arg IN (items)`; all have the type that `signature` (that of `=`) compares."""

    arg: Expression
    items: tuple[Expression, ...]
    signature: Signature
    negated: bool


@dataclass(frozen=True, slots=True)
class ArrayExpr(Expression):
    """ARRAY[..]."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ArrayTest(Expression):
    """`left operator ANY (array)`, or ALL."""

    left: Expression
    array: Expression
    signature: Signature
    every: bool


@dataclass(frozen=True, slots=True)
class SubqueryExpr(Expression):
    """A subquery as an expression: kind `scalar`, `exists`, `array`, `any` or `all`.

    For `any` and `all`, `tests` are the left sides and `signatures` the operators, one for each column of the query,
    and `casts` the types that the query's columns are compared as.
    """

    kind: str
    query: Query
    tests: tuple[Expression, ...] = ()
    signatures: tuple[Signature, ...] = ()
    casts: tuple[SqlType, ...] = ()


@dataclass(frozen=True, slots=True)
class SortKey:
    expression: Expression
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class AggregateCall(Expression):
    """An aggregate. `args` is empty for count(*). An ordered-set aggregate has its WITHIN GROUP keys in `order`."""

    signature: Signature
    args: tuple[Expression, ...]
    distinct: bool
    order: tuple[SortKey, ...]
    filter: Expression | None
    within_group: bool = False


@dataclass(frozen=True, slots=True)
class GroupingCall(Expression):
    """GROUPING(..) over expressions of GROUP BY."""

    args: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A window frame. Bounds: (`unbounded preceding` .. , offset expression or None)."""

    mode: str
    start: tuple[str, Expression | None]
    end: tuple[str, Expression | None]
    exclude: str | None


@dataclass(frozen=True, slots=True)
class WindowCall(Expression):
    signature: Signature
    args: tuple[Expression, ...]
    partition: tuple[Expression, ...]
    order: tuple[SortKey, ...]
    frame: Frame | None
    filter: Expression | None


# Relations


@dataclass(frozen=True, slots=True)
class Relation:
    """Something in FROM. `number` is unique in the statement; `names` and `types` describe its columns."""

    number: int
    alias: str
    names: tuple[str, ...]
    types: tuple[SqlType, ...]


@dataclass(frozen=True, slots=True)
class TableRelation(Relation):
    """A stored table, or a table of the system catalog (`system`)."""

    table: Table = field(compare=False)
    system: bool


@dataclass(frozen=True, slots=True)
class SubqueryRelation(Relation):
    query: Query
    lateral: bool


@dataclass(frozen=True, slots=True)
class CteRelation(Relation):
    """A reference to the common table expression with this number."""

    cte: int


@dataclass(frozen=True, slots=True)
class FunctionRelation(Relation):
    """A set-returning function in FROM; `ordinality` adds a bigint column at the end."""

    signature: Signature
    args: tuple[Expression, ...]
    ordinality: bool


@dataclass(frozen=True, slots=True)
class ValuesRelation(Relation):
    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, slots=True)
class Join:
    """A join: `inner`, `left`, `right`, `full` or `cross`. USING and NATURAL are already a condition."""

    kind: str
    left: FromItem
    right: FromItem
    condition: Expression | None


FromItem = Relation | Join


# Queries


@dataclass(frozen=True, slots=True)
class Target:
    """One output column. A `hidden` one (an ORDER BY expression) is not part of the result."""

    name: str
    expression: Expression
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Cte:
    number: int
    name: str
    names: tuple[str, ...]
    types: tuple[SqlType, ...]
    query: Query
    recursive: bool
    materialized: bool | None


@dataclass(frozen=True, slots=True)
class RowLock:
    """FOR UPDATE and its kin over relations by number. `wait` is `wait`, `nowait` or `skip`."""

    strength: str
    relations: tuple[int, ...]
    wait: str


@dataclass(frozen=True, slots=True)
class Query:
    """What Select, SetOperation and Values share. `sort` are positions in the targets."""

    targets: tuple[Target, ...]
    ctes: tuple[Cte, ...]
    order: tuple[tuple[int, bool, bool], ...]
    limit: Expression | None
    offset: Expression | None
    with_ties: bool

    @property
    def types(self) -> tuple[SqlType, ...]:
        return tuple(target.expression.type for target in self.targets if not target.hidden)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets if not target.hidden)


@dataclass(frozen=True, slots=True)
class Select(Query):
    """SELECT .. FROM .. WHERE .. GROUP BY .. HAVING.

    `order` holds (position in targets, descending, nulls first). `grouping_sets` are tuples of positions in
    `group`; None for a plain GROUP BY. `aggregated` says that there is one row per group even without GROUP BY.
    """

    source: FromItem | None
    where: Expression | None
    group: tuple[Expression, ...]
    grouping_sets: tuple[tuple[int, ...], ...] | None
    having: Expression | None
    aggregated: bool
    distinct: bool
    distinct_on: tuple[Expression, ...]
    locks: tuple[RowLock, ...]


@dataclass(frozen=True, slots=True)
class SetOperation(Query):
    """UNION, INTERSECT or EXCEPT. The targets refer to the columns of the left side through relation `number`."""

    number: int
    operator: str
    all: bool
    left: Query
    right: Query


@dataclass(frozen=True, slots=True)
class Values(Query):
    """VALUES as a query; the targets refer to its columns through relation `number`."""

    number: int
    rows: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A query, bound to one version of the catalog.

    `columns_used` maps the number of each `TableRelation` to the positions of the columns that the query reads.
    `parameter_types` has one type for each `$n`; the session's own types (regclass, arrays ..) may occur.
    """

    query: Query
    columns: tuple[ColumnDescription, ...]
    parameter_types: tuple[SqlType, ...]
    tables: tuple[TableRelation, ...]
    columns_used: Mapping[int, tuple[int, ...]]
    volatility: str
    catalog_version: int
    locks: tuple[RowLock, ...] = field(default=())


def children(node: Any) -> Iterator[Any]:
    """Yield the nodes directly below a node, expressions and queries alike."""
    for item in fields(node):
        yield from _nodes(getattr(node, item.name))


def _nodes(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for part in value:
            yield from _nodes(part)
    elif isinstance(value, (Expression, Query, Relation, Join, SortKey, Target, Cte, Frame)):
        yield value


def walk(node: Any) -> Iterator[Any]:
    """Yield the node and all nodes below it, subqueries included, parents first."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(children(current))
