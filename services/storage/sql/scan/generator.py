"""Bound expressions to DuckDB's SQL with PostgreSQL's meaning.

What DuckDB computes exactly is written natively (`templates`, `numerics`, `aggregates`); every other scalar node
becomes a Python function inside the scan, compiled by the evaluator, so that both always agree. Constant parts are
computed before. Queries around expressions are in `queries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from orbit.kernel.errors import NotSupported
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.tree import (
    AggregateCall,
    ArrayExpr,
    ArrayTest,
    BoolExpr,
    BoolTest,
    CaseExpr,
    Cast,
    Coalesce,
    ColumnRef,
    Const,
    DistinctTest,
    Expression,
    Extreme,
    FunctionCall,
    InList,
    NotExpr,
    NullIf,
    NullTest,
    Parameter,
    Relabel,
    SubqueryExpr,
    WindowCall,
    children,
    walk,
)
from services.storage.sql.bind.type_catalog import BOOL, ELEMENT_OF, NUMERIC, REG_TYPES
from services.storage.sql.evaluate import EvaluationContext, fold
from services.storage.sql.scan import aggregates, numerics, subqueries
from services.storage.sql.scan.arrow_values import duckdb_type
from services.storage.sql.scan.pieces import MAX_PRECISION, Piece, as_decimal, constant
from services.storage.sql.scan.python_functions import PythonFunctions, Running
from services.storage.sql.scan.templates import TEMPLATES, part

_STRINGS: Final = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.NAME, Oid.BPCHAR, Oid.UUID, Oid.JSON, Oid.JSONB))
_INTEGERS: Final = frozenset((Oid.INT2, Oid.INT4, Oid.INT8))
_EACH_ROW: Final = frozenset(("nextval", "setval", "random", "gen_random_uuid", "set_config", "pg_sleep"))
"""Functions whose every call counts. Other volatile ones are called once for a statement."""
_LONG: Final = 4_000
"""Characters of SQL past which no template may repeat its arguments."""
_NOT_CONSTANT: Final = (ColumnRef, AggregateCall, WindowCall, SubqueryExpr)


class Generator:
    """Writes one execution of a query: constants are in place, Python functions are registered.

    `wide` keeps every numeric as text, for numbers past DuckDB's 38 digits.
    """

    def __init__(self, functions: PythonFunctions, running: Running, wide: bool = False) -> None:
        self.functions = functions
        self.running = running
        self.wide = wide
        self.columns: dict[tuple[int, int], Piece] = {}
        """The pieces of columns of relations in scope, by (relation, column)."""
        self.replaced: list[dict[Expression, Piece]] = []
        """For each grouped query around: what stands for its group keys and aggregates."""
        self.tables: dict[int, tuple[str, Sequence[int]]] = {}
        """The name under which each `TableRelation` is registered, and the columns that it has, by number."""
        self.ctes: dict[int, list[Piece]] = {}
        self.quiet = False
        """Whether DuckDB's error() may not be used: its window definitions refuse what is volatile."""

    @property
    def context(self) -> EvaluationContext:
        return self.running.context

    # Expressions

    def emit(self, node: Expression) -> Piece:
        """Return the SQL of an expression."""
        for level in reversed(self.replaced):
            if node in level:
                return level[node]
        folded = self.folded(node)
        if isinstance(folded, Const):
            return constant(folded.value, folded.type, self.wide)
        handler = _HANDLERS.get(type(folded))
        if handler is not None:
            return handler(self, folded)  # type: ignore[no-any-return]
        return self.through_python(folded)

    def sql(self, node: Expression) -> str:
        """Return the SQL of an expression in its carrier type: numerics as text."""
        piece = self.emit(node)
        return numerics.text_form(piece) if piece.type.oid == Oid.NUMERIC else piece.sql

    def comparable(self, node: Expression) -> str:
        """Return SQL that DuckDB may compare, sort and group for the expression."""
        piece = self.emit(node)
        return numerics.key(piece, self.running.number) if piece.type.oid == Oid.NUMERIC else piece.sql

    def folded(self, node: Expression) -> Expression:
        """Return the node's value as a constant when nothing in it depends on rows."""
        if isinstance(node, Const):
            return node
        if isinstance(node, Parameter):
            return Const(node.type, self.running.parameters[node.index])
        for item in walk(node):
            if isinstance(item, _NOT_CONSTANT):
                return node
            if isinstance(item, FunctionCall) and item.signature.name in _EACH_ROW:
                return node
        return fold(node, self.running.parameters, self.context)

    def through_python(self, node: Expression) -> Piece:
        """Compute a node by the evaluator, over the SQL of the nodes below it."""
        operands = [item for item in children(node) if isinstance(item, Expression)]
        if isinstance(node, FunctionCall) and node.signature.name in _EACH_ROW:
            raise NotSupported(f"function {node.signature.name} in a query over tables is not supported")
        # Constants are arguments too, so that one registered function serves every query of the same shape.
        references = [ColumnRef(item.type, 0, at, "") for at, item in enumerate(operands)]
        name = self.functions.expression(_with_operands(node, references), [item.type.oid for item in operands])
        args = ", ".join([str(self.running.number), *(self.sql(item) for item in operands)])
        return Piece(f"{name}({args})", node.type)

    def column(self, node: ColumnRef) -> Piece:
        return self.columns[node.relation, node.column]

    def parameter(self, node: Parameter) -> Piece:
        return constant(self.running.parameters[node.index], node.type, self.wide)

    def call(self, node: FunctionCall) -> Piece:
        signature = node.signature
        if signature.args and all(oid == Oid.NUMERIC for oid in signature.args[:1]):
            if signature.name in numerics.COMPARISONS:
                return self.compare(signature.name, node.args[0], node.args[1])
            if signature.result == Oid.NUMERIC:
                pieces = [self.emit(item) for item in node.args]
                native = numerics.arithmetic(node, pieces)
                return native if native is not None else self.through_python(node)
        if signature.name in ("extract", "date_part"):
            return self.date_part(node)
        if signature.name in ("upper", "lower") and signature.kind == "f":
            return self.change_case(node)
        template = TEMPLATES.get(signature.key)
        if template is None:
            return self.through_python(node)
        args = [self.folded(item) for item in node.args]
        texts = [self.sql(item) for item in args]
        text = template.format(*texts) if isinstance(template, str) else template(args, texts)
        if text is not None and self.quiet and "error(" in text:
            return self.through_python(node)
        if text is not None and len(text) > _LONG and len(text) > 2 * sum(map(len, texts)):
            # A template that names an argument three times would triple the text with each level of nesting.
            return self.through_python(node)
        return Piece(text, node.type) if text is not None else self.through_python(node)

    def compare(self, name: str, left: Expression, right: Expression) -> Piece:
        """Compare two numerics."""
        a, b = self.emit(left), self.emit(right)
        if numerics.comparable(a, b):
            return Piece(f"({a.sql} {name} {b.sql})", BOOL)
        number = self.running.number
        a, b = Piece(numerics.text_form(a), NUMERIC), Piece(numerics.text_form(b), NUMERIC)
        return Piece(f"({numerics.key(a, number)} {name} {numerics.key(b, number)})", BOOL)

    def date_part(self, node: FunctionCall) -> Piece:
        if node.args[1].type.oid not in (Oid.DATE, Oid.TIMESTAMP):
            return self.through_python(node)
        args = [self.folded(item) for item in node.args]
        value = self.sql(args[1])
        found = part(args, ["", value])
        if found is None:
            return self.through_python(node)
        text, places = found
        slow = self.through_python(node)
        # What is infinite or before the year 1 is rare: Python does it, in a branch of its own.
        plain = f"isfinite({value}) AND {value} >= '0001-01-01'"
        if node.type.oid == Oid.FLOAT8:
            fast = f"CAST({text} AS DOUBLE)" + (f" / {10**places}.0::DOUBLE" if places else "")
            return Piece(f"CASE WHEN {plain} THEN {fast} WHEN {value} IS NOT NULL THEN {slow.sql} END", node.type)
        decimal = f"CAST({text} AS DECIMAL(19,0))"
        if places:
            decimal = f"({decimal} * CAST('{1 / 10**places:.{places}f}' AS DECIMAL({places},{places})))"
        precision = 19 + places
        if self.wide:
            return Piece(
                f"CASE WHEN {plain} THEN CAST({decimal} AS VARCHAR) WHEN {value} IS NOT NULL THEN {slow.sql} END",
                node.type,
            )
        back = f"CAST({slow.sql} AS DECIMAL({precision},{places}))"
        return Piece(
            f"CASE WHEN {plain} THEN {decimal} WHEN {value} IS NOT NULL THEN {back} END", node.type, (precision, places)
        )

    def change_case(self, node: FunctionCall) -> Piece:
        """upper and lower: DuckDB for ASCII, where every Unicode library agrees."""
        if node.signature.args != (Oid.TEXT,):
            return self.through_python(node)
        value = self.sql(node.args[0])
        slow = self.through_python(node)
        name = node.signature.name
        return Piece(f"CASE WHEN strlen({value}) = length({value}) THEN {name}({value}) ELSE {slow.sql} END", node.type)

    # Casts

    def cast(self, node: Cast) -> Piece:
        source, target = node.arg.type, node.type
        if target.oid == Oid.NUMERIC:
            return self.to_numeric(node)
        if source.oid == Oid.NUMERIC:
            return self.from_numeric(node)
        native = self.native_cast(node, source, target)
        return native if native is not None else self.through_python(node)

    def native_cast(self, node: Cast, source: SqlType, target: SqlType) -> Piece | None:
        """Return a cast that DuckDB does as PostgreSQL does."""
        pair = (source.oid, target.oid)
        numbers = (*_INTEGERS, Oid.FLOAT4, Oid.FLOAT8)
        if source.oid in numbers and target.oid in numbers:
            return Piece(f"CAST({self.sql(node.arg)} AS {duckdb_type(target.oid)})", target)
        if target.oid in (Oid.TEXT, Oid.VARCHAR) and target.modifier == -1:
            if source.oid in _INTEGERS or source.oid in (Oid.OID, Oid.BOOL):
                return Piece(f"CAST({self.sql(node.arg)} AS VARCHAR)", target)
            if source.oid == Oid.BPCHAR:
                return Piece(f"rtrim({self.sql(node.arg)}, ' ')", target)
            if source.oid in _STRINGS:
                return Piece(self.sql(node.arg), target)
        if target.oid == Oid.VARCHAR and node.explicit and source.oid in (Oid.TEXT, Oid.VARCHAR):
            return Piece(f"left({self.sql(node.arg)}, {target.modifier - 4})", target)
        if target.oid == Oid.BPCHAR and source.oid in (Oid.TEXT, Oid.VARCHAR):
            if target.modifier == -1:
                return Piece(self.sql(node.arg), target)
            if node.explicit:
                size = target.modifier - 4
                return Piece(f"rpad(left({self.sql(node.arg)}, {size}), {size}, ' ')", target)
        if pair in ((Oid.DATE, Oid.TIMESTAMP), (Oid.TIMESTAMP, Oid.DATE)) and target.modifier == -1:
            return Piece(f"CAST({self.sql(node.arg)} AS {duckdb_type(target.oid)})", target)
        if pair == (Oid.TIMESTAMP, Oid.TIME) and target.modifier == -1:
            value = self.sql(node.arg)
            return Piece(f"CASE WHEN isfinite({value}) THEN CAST({value} AS TIME) END", target)
        if pair == (Oid.INT4, Oid.BOOL) or pair == (Oid.BOOL, Oid.INT4):
            return Piece(f"CAST({self.sql(node.arg)} AS {duckdb_type(target.oid)})", target)
        if (source.oid == Oid.OID and target.oid in REG_TYPES) or (source.oid in REG_TYPES and target.oid == Oid.OID):
            return Piece(self.sql(node.arg), target)
        if source.oid in (Oid.OID, Oid.INT4) and target.oid == Oid.INT8:
            return Piece(f"CAST({self.sql(node.arg)} AS BIGINT)", target)
        return None

    def to_numeric(self, node: Cast) -> Piece:
        limits = node.type.precision_and_scale
        piece = self.emit(node.arg)
        if not self.wide:
            if piece.type.oid != Oid.NUMERIC:
                converted = numerics.from_integer(piece, node.arg.type)
                if converted is None:
                    return self.in_limits(self.through_python(node), limits)
                piece = converted
            if limits is None and piece.decimal is not None:
                return replace(piece, type=node.type)
            if limits is not None and piece.decimal is not None and limits[0] <= MAX_PRECISION:
                precision, scale = limits
                have, have_scale = piece.decimal
                if have - have_scale + (1 if have_scale > scale else 0) <= precision - scale:
                    return Piece(as_decimal(piece, precision, scale), node.type, (precision, scale))
        return self.in_limits(self.through_python(node), limits)

    def in_limits(self, piece: Piece, limits: tuple[int, int] | None) -> Piece:
        """Return text that Python has rounded to numeric(p, s) as a decimal."""
        if limits is None or limits[0] > MAX_PRECISION or self.wide or limits[1] > limits[0]:
            return piece
        return Piece(f"CAST({piece.sql} AS DECIMAL({limits[0]},{limits[1]}))", piece.type, limits)

    def from_numeric(self, node: Cast) -> Piece:
        piece = self.emit(node.arg)
        target = node.type
        if piece.decimal is not None:
            if target.oid in _INTEGERS:
                return Piece(f"CAST({piece.sql} AS {duckdb_type(target.oid)})", target)
            if target.oid == Oid.FLOAT8:
                # Up to 15 digits the division by a power of ten rounds once; past that, text does.
                inner = piece.sql if piece.decimal[0] <= 15 else f"CAST({piece.sql} AS VARCHAR)"
                return Piece(f"CAST({inner} AS DOUBLE)", target)
            if target.oid in (Oid.TEXT, Oid.VARCHAR) and target.modifier == -1:
                return Piece(numerics.text_form(piece), target)
        return self.through_python(node)

    def relabel(self, node: Relabel) -> Piece:
        return replace(self.emit(node.arg), type=node.type)

    # Logic and conditionals

    def logic(self, node: BoolExpr) -> Piece:
        return Piece("(" + f" {node.operator.upper()} ".join(self.sql(item) for item in node.args) + ")", BOOL)

    def negation(self, node: NotExpr) -> Piece:
        return Piece(f"(NOT {self.sql(node.arg)})", BOOL)

    def null_test(self, node: NullTest) -> Piece:
        return Piece(f"({self.emit(node.arg).sql} IS {'NOT ' if node.negated else ''}NULL)", BOOL)

    def bool_test(self, node: BoolTest) -> Piece:
        word = "NULL" if node.value is None else str(node.value).upper()
        if word == "NULL":
            return Piece(f"({self.sql(node.arg)} IS {'NOT ' if node.negated else ''}NULL)", BOOL)
        test = f"coalesce({self.sql(node.arg)} = {word.lower()}, false)"
        return Piece(f"(NOT {test})" if node.negated else test, BOOL)

    def distinct_test(self, node: DistinctTest) -> Piece:
        if node.signature.args[0] == Oid.BPCHAR:
            left, right = (f"rtrim({self.sql(item)}, ' ')" for item in (node.left, node.right))
        elif node.signature.args[0] == Oid.NUMERIC:
            a, b = self.emit(node.left), self.emit(node.right)
            if numerics.comparable(a, b):
                left, right = a.sql, b.sql
            else:
                left, right = (
                    numerics.key(Piece(numerics.text_form(item), NUMERIC), self.running.number) for item in (a, b)
                )
        elif node.signature.args[0] != node.signature.args[1] or node.signature.key not in TEMPLATES:
            return self.through_python(node)
        else:
            left, right = self.sql(node.left), self.sql(node.right)
        return Piece(f"({left} IS {'NOT ' if node.negated else ''}DISTINCT FROM {right})", BOOL)

    def case(self, node: CaseExpr) -> Piece:
        conditions = [self.sql(condition) for condition, _ in node.branches]
        nodes = [*(value for _, value in node.branches), node.default]
        if node.type.oid != Oid.NUMERIC:
            values = [self.sql(item) for item in nodes]
            return Piece(_case(conditions, values), node.type)
        return self.numeric_arms(node.type, nodes, lambda values: _case(conditions, values), True)

    def coalesce(self, node: Coalesce) -> Piece:
        if node.type.oid != Oid.NUMERIC:
            return Piece(f"coalesce({', '.join(self.sql(item) for item in node.args)})", node.type)
        return self.numeric_arms(node.type, node.args, lambda values: f"coalesce({', '.join(values)})", False)

    def numeric_arms(self, result: SqlType, nodes: Sequence[Expression], combine: Any, scales: bool) -> Piece:
        """Bring numeric arms to one form; `scales` says that the scale can be chosen by the same conditions."""
        pieces = [self.emit(item) for item in nodes]
        nulls = [isinstance(self.folded(item), Const) and self.folded(item).value is None for item in nodes]  # type: ignore[attr-defined]
        form = None if self.wide else numerics.common_form(pieces, nulls)
        if form is None or not (scales or numerics.same_scale(pieces, nulls)):
            return Piece(combine([numerics.text_form(item) for item in pieces]), result)
        values = [
            f"CAST(NULL AS DECIMAL({form[0]},{form[1]}))" if is_null else as_decimal(item, *form)
            for item, is_null in zip(pieces, nulls, strict=True)
        ]
        if numerics.same_scale(pieces, nulls):
            return Piece(combine(values), result, form)
        chosen = combine([numerics.arm_scale(item, is_null) for item, is_null in zip(pieces, nulls, strict=True)])
        return Piece(combine(values), result, form, f"({chosen})")

    def nullif(self, node: NullIf) -> Piece:
        equal = self.sql(FunctionCall(BOOL, node.signature, (node.compared_left, node.compared_right)))
        left = self.emit(node.left)
        empty = constant(None, node.type, left.decimal is None)
        return replace(left, sql=f"CASE WHEN {equal} THEN {empty.sql} ELSE {left.sql} END")

    def extreme(self, node: Extreme) -> Piece:
        if node.type.oid in (Oid.NUMERIC, Oid.BPCHAR) or node.type.oid in ELEMENT_OF:
            return self.through_python(node)
        return Piece(f"{node.name}({', '.join(self.sql(item) for item in node.args)})", node.type)

    def in_list(self, node: InList) -> Piece:
        if (
            node.signature.key not in TEMPLATES
            or node.signature.args[0] != node.signature.args[1]
            or (node.signature.args[0] == Oid.BPCHAR)
        ):
            tests = tuple(FunctionCall(BOOL, node.signature, (node.arg, item)) for item in node.items)
            text = "(" + " OR ".join(self.sql(item) for item in tests) + ")"
        else:
            text = f"({self.sql(node.arg)} IN ({', '.join(self.sql(item) for item in node.items)}))"
        return Piece(f"(NOT {text})" if node.negated else text, BOOL)

    def array(self, node: ArrayExpr) -> Piece:
        items = ", ".join(self.sql(item) for item in node.items)
        return Piece(f"CAST([{items}] AS {duckdb_type(node.type.oid)})", node.type)

    def array_test(self, node: ArrayTest) -> Piece:
        array = self.folded(node.array)
        if isinstance(array, ArrayExpr):
            items: Sequence[Expression] = array.items
        elif isinstance(array, Const) and array.value is not None:
            element = SqlType(node.signature.args[1])
            items = [Const(element, item) for item in array.value]
        else:
            return self.through_python(node)
        if not items:
            return Piece("true" if node.every else "false", BOOL)
        if node.signature.name == "=" and not node.every:
            return self.in_list(InList(BOOL, node.left, tuple(items), node.signature, False))
        tests = tuple(FunctionCall(BOOL, node.signature, (node.left, item)) for item in items)
        return self.logic(BoolExpr(BOOL, "and" if node.every else "or", tests))


def _case(conditions: Sequence[str], values: Sequence[str]) -> str:
    branches = " ".join(f"WHEN {test} THEN {value}" for test, value in zip(conditions, values[:-1], strict=True))
    return f"CASE {branches} ELSE {values[-1]} END"


def _with_operands(node: Expression, operands: Sequence[Expression]) -> Expression:
    """Return the node with the expressions directly below it replaced, in the order of `children`."""
    pending = iter(operands)

    def rebuilt(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(rebuilt(item) for item in value)
        return next(pending) if isinstance(value, Expression) else value

    changed = {
        name: rebuilt(getattr(node, name)) for name in node.__dataclass_fields__ if name not in ("type", "signature")
    }
    return replace(node, **changed)


_HANDLERS: Final[dict[type[Expression], Any]] = {
    ColumnRef: Generator.column,
    Parameter: Generator.parameter,
    FunctionCall: Generator.call,
    Cast: Generator.cast,
    Relabel: Generator.relabel,
    BoolExpr: Generator.logic,
    NotExpr: Generator.negation,
    NullTest: Generator.null_test,
    BoolTest: Generator.bool_test,
    DistinctTest: Generator.distinct_test,
    CaseExpr: Generator.case,
    Coalesce: Generator.coalesce,
    NullIf: Generator.nullif,
    Extreme: Generator.extreme,
    InList: Generator.in_list,
    ArrayExpr: Generator.array,
    ArrayTest: Generator.array_test,
    AggregateCall: aggregates.emit_aggregate,
    WindowCall: aggregates.emit_window,
    SubqueryExpr: subqueries.emit_subquery,
}
