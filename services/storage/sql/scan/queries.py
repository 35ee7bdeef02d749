"""Bound queries to DuckDB's SQL: FROM, grouping, set operations, order and limits.

Each query's output columns are c0, c1 ..; a relation's alias is r and its number. A grouped query is two levels, the
inner one computing keys and aggregates, so that nothing depends on how DuckDB matches expressions with groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import (
    AggregateCall,
    Const,
    Cte,
    CteRelation,
    Expression,
    FromItem,
    FunctionRelation,
    GroupingCall,
    Join,
    Query,
    Relation,
    Select,
    SetOperation,
    SubqueryExpr,
    SubqueryRelation,
    TableRelation,
    Target,
    Values,
    children,
)
from services.storage.sql.bind.type_catalog import NUMERIC
from services.storage.sql.scan import numerics
from services.storage.sql.scan.arrow_values import duckdb_type, list_of
from services.storage.sql.scan.pieces import MAX_PRECISION, Piece
from services.storage.sql.scan.set_functions import SET_FUNCTIONS

if TYPE_CHECKING:
    from services.storage.sql.scan.generator import Generator


def emit_query(generator: Generator, query: Query, plain: bool = False) -> tuple[str, list[Piece]]:
    """Return the SQL of a query and its visible columns c0 .. as pieces (`sql` is the column's name).

    With `plain` every column has its carrier type: numerics are text.
    """
    ctes = [_emit_cte(generator, cte) for cte in query.ctes]
    if isinstance(query, Select):
        text, pieces = _select(generator, query)
    elif isinstance(query, SetOperation):
        text, pieces = _set_operation(generator, query)
    else:
        assert isinstance(query, Values)
        text, pieces = _values(generator, query)
    if plain and any(piece.decimal is not None for piece in pieces):
        columns = ", ".join(
            f"{numerics.text_form(piece) if piece.decimal else piece.sql} AS {piece.sql}" for piece in pieces
        )
        text, pieces = f"SELECT {columns} FROM ({text}) p", [Piece(piece.sql, piece.type) for piece in pieces]
    if ctes:
        recursive = "RECURSIVE " if any(cte.recursive for cte in query.ctes) else ""
        text = f"WITH {recursive}{', '.join(ctes)} {text}"
    return text, pieces


def _materialized(piece: Piece) -> tuple[str, Piece]:
    """Return the SQL to store a piece in a column, and the form that the column then has."""
    if piece.type.oid != Oid.NUMERIC or (piece.decimal is not None and piece.scale is None):
        return piece.sql, piece
    return numerics.text_form(piece), Piece("", piece.type)


def _columns(generator: Generator, targets: Sequence[Target]) -> tuple[list[str], list[Piece]]:
    texts: list[str] = []
    pieces: list[Piece] = []
    for at, target in enumerate(targets):
        sql, form = _materialized(generator.emit(target.expression))
        texts.append(f"{sql} AS c{at}")
        pieces.append(Piece(f"c{at}", target.expression.type, form.decimal))
    return texts, pieces


# SELECT


def _select(generator: Generator, query: Select) -> tuple[str, list[Piece]]:
    source = "" if query.source is None else f" FROM {_from(generator, query.source)}"
    where = "" if query.where is None else f" WHERE {generator.sql(query.where)}"
    if query.aggregated:
        source, where = _grouped(generator, query, source + where), ""
        if query.having is not None:
            where = f" WHERE {generator.sql(query.having)}"
    columns, pieces = _columns(generator, query.targets)
    distinct_on = [generator.comparable(item) for item in query.distinct_on]
    extra = [f"{text} AS d{at}" for at, text in enumerate(distinct_on)]
    if query.aggregated:
        generator.replaced.pop()
    text = f"SELECT {', '.join([*columns, *extra]) or '1 AS nothing'}{source}{where}"
    visible = [piece for piece, target in zip(pieces, query.targets, strict=True) if not target.hidden]
    if query.distinct:
        text = _distinct(generator, text, pieces)
    return _ordered(generator, query, text, pieces, visible, len(distinct_on)), visible


def _distinct(generator: Generator, text: str, pieces: Sequence[Piece]) -> str:
    """Remove duplicates; numerics in text form count as equal by value."""
    if not any(piece.is_text_numeric or piece.type.oid == Oid.BPCHAR for piece in pieces):
        return f"SELECT DISTINCT * FROM ({text}) u"
    columns: list[str] = []
    groups: list[str] = []
    for piece in pieces:
        key = numerics.key(piece, generator.running.number) if piece.is_text_numeric else piece.sql
        if piece.type.oid == Oid.BPCHAR:
            key = f"rtrim({piece.sql}, ' ')"
        groups.append(key)
        columns.append(f"any_value({piece.sql}) AS {piece.sql}" if key != piece.sql else piece.sql)
    return f"SELECT {', '.join(columns)} FROM ({text}) u GROUP BY {', '.join(groups)}"


def _ordered(
    generator: Generator, query: Query, text: str, pieces: Sequence[Piece], visible: Sequence[Piece], distinct_on: int
) -> str:
    """Add DISTINCT ON, ORDER BY, LIMIT and OFFSET, and drop hidden columns."""
    hidden = len(visible) != len(pieces) or distinct_on
    if not (query.order or query.limit or query.offset or hidden):
        return text
    names = ", ".join(piece.sql for piece in visible) or "1 AS nothing"
    keys = ", ".join(
        f"{_sort_text(generator, pieces[at])} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"
        for at, descending, first in query.order
    )
    order = f" ORDER BY {keys}" if keys else ""
    on = f"DISTINCT ON ({', '.join(f'd{at}' for at in range(distinct_on))}) " if distinct_on else ""
    limit, offset = _count(generator, query.limit, "LIMIT"), _count(generator, query.offset, "OFFSET")
    if query.with_ties and limit:
        ranked = f"SELECT *, rank() OVER ({order}) AS place, row_number() OVER ({order}) AS row FROM ({text}) q"
        start = offset or "0"
        test = f"place <= {limit} + {start} AND row > {start}"
        return f"SELECT {names} FROM ({ranked}) q WHERE {test} ORDER BY row"
    tail = (f" LIMIT {limit}" if limit else "") + (f" OFFSET {offset}" if offset else "")
    return f"SELECT {on}{names} FROM ({text}) q{order}{tail}"


def _sort_text(generator: Generator, piece: Piece) -> str:
    if piece.is_text_numeric:
        return numerics.key(piece, generator.running.number)
    return f"rtrim({piece.sql}, ' ')" if piece.type.oid == Oid.BPCHAR and piece.type.modifier < 0 else piece.sql


def _count(generator: Generator, node: Expression | None, clause: str) -> str:
    if node is None:
        return ""
    folded = generator.folded(node)
    if isinstance(folded, Const):
        if folded.value is None:
            return ""
        if folded.value < 0:
            raise OrbitError(f"{clause} must not be negative", sqlstate="2201W" if clause == "LIMIT" else "2201X")
        return str(folded.value)
    return f"({generator.sql(node)})"


# Grouping


def _own(node: object, found: list[Expression]) -> None:
    """Collect the aggregates of this query level, outermost first."""
    if isinstance(node, AggregateCall | GroupingCall):
        if node not in found:
            found.append(node)
        return
    if isinstance(node, SubqueryExpr):
        for test in node.tests:
            _own(test, found)
        # Aggregates inside belong to the subquery: binding refuses those of an outer query.
        return
    for child in children(node):
        _own(child, found)


def _grouped(generator: Generator, query: Select, source: str) -> str:
    """Return FROM of the level that holds one row a group; from here on keys and aggregates are its columns."""
    aggregates: list[Expression] = []
    for target in query.targets:
        _own(target.expression, aggregates)
    for item in (query.having, *query.distinct_on):
        if item is not None:
            _own(item, aggregates)
    level: dict[Expression, Piece] = {}
    columns: list[str] = []
    keys: list[str] = []
    alias = f"g{len(generator.columns)}_{len(generator.replaced)}"
    for at, item in enumerate(query.group):
        piece = generator.emit(item)
        sql, form = _materialized(piece)
        key = sql
        if form.is_text_numeric:
            key = numerics.key(Piece(sql, NUMERIC), generator.running.number)
        elif item.type.oid == Oid.BPCHAR and item.type.modifier < 0:
            key = f"rtrim({sql}, ' ')"
        # An expression, never a bare constant, which GROUP BY would take for a position.
        keys.append(key)
        columns.append(f"{sql if key == sql else f'any_value({sql})'} AS k{at}")
        level[item] = Piece(f"{alias}.k{at}", item.type, form.decimal)
    if query.grouping_sets is not None and any(column.startswith("any_value") for column in columns):
        raise NotSupported("grouping sets over numerics of varying scale are not supported")
    for at, aggregate in enumerate(aggregates):
        if isinstance(aggregate, GroupingCall):
            positions = [query.group.index(item) for item in aggregate.args if item in query.group]
            if len(positions) != len(aggregate.args):
                raise OrbitError(
                    "arguments to GROUPING must be grouping expressions of the associated query level", sqlstate="42803"
                )
            piece = Piece(f"CAST(grouping({', '.join(keys[n] for n in positions)}) AS INTEGER)", aggregate.type)
        else:
            piece = generator.emit(aggregate)
        sql, form = piece.sql, piece
        columns.append(f"{sql} AS a{at}")
        scale = None
        if piece.scale is not None:
            columns.append(f"{piece.scale} AS s{at}")
            scale = f"{alias}.s{at}"
        level[aggregate] = Piece(f"{alias}.a{at}", aggregate.type, form.decimal, scale)
    group = _group_by(query, keys)
    generator.replaced.append(level)
    return f" FROM (SELECT {', '.join(columns) or '1 AS nothing'}{source}{group}) {alias}"


def _group_by(query: Select, keys: Sequence[str]) -> str:
    if query.grouping_sets is not None:
        sets = ", ".join("(" + ", ".join(keys[at] for at in one) + ")" for one in query.grouping_sets)
        return f" GROUP BY GROUPING SETS ({sets})"
    return f" GROUP BY {', '.join(keys)}" if keys else ""


# FROM


def _from(generator: Generator, item: FromItem) -> str:
    if isinstance(item, Join):
        left, right = _from(generator, item.left), _from(generator, item.right)
        if isinstance(item.right, Join):
            right = f"({right})"
        if item.kind == "cross" or item.condition is None:
            return f"{left} CROSS JOIN {right}"
        return f"{left} {item.kind.upper()} JOIN {right} ON {generator.sql(item.condition)}"
    return _relation(generator, item)


def _relation(generator: Generator, relation: Relation) -> str:
    alias = f"r{relation.number}"

    def name(pieces: Sequence[Piece]) -> None:
        for at, (piece, sql_type) in enumerate(zip(pieces, relation.types, strict=True)):
            generator.columns[relation.number, at] = Piece(f"{alias}.c{at}", sql_type, piece.decimal)

    if isinstance(relation, TableRelation):
        name([_stored(column.type.precision_and_scale, generator) for column in relation.table.columns])
        return f"{_table(generator, relation)} {alias}"
    if isinstance(relation, SubqueryRelation):
        text, pieces = emit_query(generator, relation.query)
        name(pieces)
        return f"{'LATERAL ' if relation.lateral else ''}({text}) {alias}"
    if isinstance(relation, CteRelation):
        name(generator.ctes[relation.cte])
        return f"cte{relation.cte} {alias}"
    assert isinstance(relation, FunctionRelation)
    text, pieces = _function(generator, relation)
    name(pieces)
    return f"LATERAL ({text}) {alias}"


def _table(generator: Generator, relation: TableRelation) -> str:
    name, used = generator.tables[relation.number]
    decimals = {at for at in used if relation.table.columns[at].type.precision_and_scale is not None and generator.wide}
    if not decimals:
        return name
    columns = ", ".join(f"CAST(c{at} AS VARCHAR) AS c{at}" if at in decimals else f"c{at}" for at in used)
    return f"(SELECT {columns} FROM {name})"


def _stored(limits: tuple[int, int] | None, generator: Generator) -> Piece:
    """Return the form of a stored column, with `wide` already applied where the table is registered."""
    if limits is None or limits[0] > MAX_PRECISION or generator.wide:
        return Piece("", NUMERIC)
    return Piece("", NUMERIC, limits)


def _function(generator: Generator, relation: FunctionRelation) -> tuple[str, list[Piece]]:
    """Return a set-returning function as a query: the list of its values, unnested."""
    signature = relation.signature
    element = relation.types[0]
    if signature.key in ("generate_series(int4,int4)", "generate_series(int8,int8)"):
        values = f"generate_series({', '.join(f'CAST({generator.sql(item)} AS BIGINT)' for item in relation.args)})"
        values = f"CAST({values} AS {duckdb_type(element.oid)}[])"
    elif signature.name == "unnest":
        values = generator.sql(relation.args[0])
    else:
        array = list_of(element.oid)
        make = SET_FUNCTIONS.get(signature.key)
        if make is None:
            raise NotSupported(f"function {signature.name} is not supported")
        types = "_".join(str(item.type.oid) for item in relation.args)
        name = f"orbit_set_{signature.name}_{types}"
        generator.functions.register(name, make, [item.type.oid for item in relation.args], array)
        values = (
            f"{name}({', '.join([str(generator.running.number), *(generator.sql(item) for item in relation.args)])})"
        )
    pieces = [Piece("", sql_type) for sql_type in relation.types]
    if relation.ordinality:
        return f"SELECT unnest(l) AS c0, unnest(generate_series(1, len(l))) AS c1 FROM (SELECT {values} AS l) f", pieces
    return f"SELECT unnest({values}) AS c0", pieces


# CTEs, set operations, VALUES


def _emit_cte(generator: Generator, cte: Cte) -> str:
    names = ", ".join(f"c{at}" for at in range(len(cte.types)))
    if cte.recursive:
        # The recursive part refers to the columns before they are emitted: numerics travel as text.
        generator.ctes[cte.number] = [Piece(f"c{at}", sql_type) for at, sql_type in enumerate(cte.types)]
        text, _ = _recursive(generator, cte)
        return f"cte{cte.number}({names}) AS ({text})"
    text, pieces = emit_query(generator, cte.query)
    generator.ctes[cte.number] = pieces
    word = "" if cte.materialized is None else "MATERIALIZED " if cte.materialized else "NOT MATERIALIZED "
    return f"cte{cte.number}({names}) AS {word}({text})"


def _recursive(generator: Generator, cte: Cte) -> tuple[str, list[Piece]]:
    union = cte.query
    assert isinstance(union, SetOperation)
    if not union.all and any(sql_type.oid == Oid.NUMERIC for sql_type in cte.types):
        raise NotSupported("recursive UNION over numeric columns is not supported, use UNION ALL")
    left, pieces = emit_query(generator, union.left, plain=True)
    right, _ = emit_query(generator, union.right, plain=True)
    return f"({left}) UNION {'ALL ' if union.all else ''}({right})", pieces


def _set_operation(generator: Generator, query: SetOperation) -> tuple[str, list[Piece]]:
    left, left_pieces = emit_query(generator, query.left)
    right, right_pieces = emit_query(generator, query.right)
    forms: list[tuple[int, int] | None] = []
    for a, b in zip(left_pieces, right_pieces, strict=True):
        same = a.decimal is not None and b.decimal is not None and a.decimal[1] == b.decimal[1]
        forms.append(max(a.decimal, b.decimal) if same and a.decimal and b.decimal else None)
    pieces = [
        Piece(f"c{at}", sql_type, forms[at] if sql_type.oid == Oid.NUMERIC else None)
        for at, sql_type in enumerate(query.types)
    ]
    texts = [_conformed(text, have, pieces) for text, have in ((left, left_pieces), (right, right_pieces))]
    word = query.operator.upper()
    if query.all or not any(piece.is_text_numeric for piece in pieces):
        combined = f"({texts[0]}) {word} {'ALL ' if query.all else ''}({texts[1]})"
        if query.operator != "union" and any(piece.is_text_numeric for piece in pieces):
            raise NotSupported(f"{word} over numerics of varying scale is not supported")
        if query.order or query.limit or query.offset:
            combined = f"SELECT * FROM ({combined}) x"
    elif query.operator == "union":
        combined = _distinct(generator, f"({texts[0]}) UNION ALL ({texts[1]})", pieces)
    else:
        raise NotSupported(f"{word} over numerics of varying scale is not supported")
    return _ordered(generator, query, combined, pieces, pieces, 0), pieces


def _conformed(text: str, have: Sequence[Piece], want: Sequence[Piece]) -> str:
    """Return a query whose numeric columns have the forms that the set operation needs."""
    if all(a.decimal == b.decimal for a, b in zip(have, want, strict=True)):
        return text
    columns: list[str] = []
    for at, (a, b) in enumerate(zip(have, want, strict=True)):
        if a.decimal == b.decimal:
            columns.append(f"c{at}")
        elif b.decimal is None:
            columns.append(f"{numerics.text_form(a)} AS c{at}")
        else:
            columns.append(f"CAST(c{at} AS DECIMAL({b.decimal[0]},{b.decimal[1]})) AS c{at}")
    return f"SELECT {', '.join(columns)} FROM ({text}) v"


def _values(generator: Generator, query: Values) -> tuple[str, list[Piece]]:
    columns = list(zip(*query.rows, strict=True))
    texts: list[list[str]] = []
    pieces: list[Piece] = []
    for at, column in enumerate(columns):
        found = [generator.emit(item) for item in column]
        sql_type = query.targets[at].expression.type
        form: tuple[int, int] | None = None
        if sql_type.oid == Oid.NUMERIC:
            nulls = [isinstance(item, Const) and item.value is None for item in column]
            if numerics.same_scale(found, nulls):
                form = numerics.common_form(found, nulls)
            texts.append(
                [
                    numerics.text_form(piece) if form is None else f"CAST({piece.sql} AS DECIMAL({form[0]},{form[1]}))"
                    for piece in found
                ]
            )
        else:
            texts.append([piece.sql for piece in found])
        pieces.append(Piece(f"c{at}", sql_type, form))
        generator.columns[query.number, at] = Piece(f"r{query.number}.c{at}", sql_type, form)
    rows = ", ".join("(" + ", ".join(row) + ")" for row in zip(*texts, strict=True))
    names = ", ".join(f"c{at}" for at in range(len(columns)))
    inner = f"SELECT * FROM (VALUES {rows}) r{query.number}({names})"
    return _ordered(generator, query, inner, pieces, pieces, 0), pieces
