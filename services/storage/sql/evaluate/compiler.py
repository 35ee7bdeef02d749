"""Bound expressions to Python functions.

An expression becomes straight-line source, one local variable a step, so that neither deep nesting nor long chains
cost Python stack; AND, OR, CASE and COALESCE evaluate only what PostgreSQL would. The source holds no text of the
query: constants and functions are bound by name.

    evaluate = evaluator(expression, (relation_number,))
    value = evaluate((row,), parameters, context)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.signatures import Signature
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
    GroupingCall,
    InList,
    NotExpr,
    NullIf,
    NullTest,
    Parameter,
    Relabel,
    SubqueryExpr,
    WindowCall,
)
from services.storage.sql.evaluate.casts import cast
from services.storage.sql.evaluate.context import EvaluationContext
from services.storage.sql.evaluate.dates import interval_key
from services.storage.sql.evaluate.numbers import CHECKS
from services.storage.sql.evaluate.registry import FUNCTIONS, INLINE
from services.storage.sql.parse.errors import too_complex

Evaluate = Callable[[Sequence[Sequence[Any]], Sequence[Any], EvaluationContext], Any]
"""(one row for each relation, parameters, context) -> value"""

MAX_BLOCKS: Final = 90
"""Python's limit on indentation is 100."""
_HASHED: Final = frozenset(
    (Oid.INT2, Oid.INT4, Oid.INT8, Oid.TEXT, Oid.VARCHAR, Oid.DATE, Oid.TIMESTAMP, Oid.UUID, Oid.OID)
)


def evaluator(expression: Expression, relations: Sequence[int] = ()) -> Evaluate:
    """Compile one expression; `relations` are the numbers of the rows that it is given, in order.

    Raises NotSupported for what has no meaning row by row (aggregates, windows, subqueries).
    """
    compiler = _Compiler(relations)
    try:
        return compiler.finish(compiler.emit(expression))
    except RecursionError:
        raise too_complex("stack depth limit exceeded") from None


def tuple_evaluator(expressions: Sequence[Expression], relations: Sequence[int] = ()) -> Evaluate:
    """Compile several expressions into one function that returns their values as a tuple."""
    compiler = _Compiler(relations)
    try:
        results = [compiler.emit(item) for item in expressions]
        return compiler.finish("(" + "".join(f"{item}, " for item in results) + ")")
    except RecursionError:
        raise too_complex("stack depth limit exceeded") from None


def can_evaluate(expression: Expression) -> bool:
    """Return whether Python has a meaning for everything in the expression."""
    try:
        evaluator(expression, ())
    except (NotSupported, KeyError):
        return False
    return True


class _Compiler:
    def __init__(self, relations: Sequence[int]) -> None:
        self.rows = {number: at for at, number in enumerate(relations)}
        self.lines: list[str] = []
        self.names: dict[str, Any] = {f"check_{name}": check for name, check in CHECKS.items()}
        self.names["interval_key"] = interval_key
        self.depth = 1
        self.count = 0
        self.columns: dict[tuple[int, int], str] = {}
        self.prologue: list[str] = []

    def finish(self, result: str) -> Evaluate:
        source = ["def evaluate(rows, parameters, context):", *self.prologue, *self.lines, f"    return {result}"]
        exec("\n".join(source), self.names)  # noqa: S102 - made of positions and names of our own only
        compiled: Evaluate = self.names["evaluate"]
        return compiled

    # Source

    def line(self, text: str) -> None:
        if self.depth > MAX_BLOCKS:
            raise OrbitError("stack depth limit exceeded", sqlstate="54001")
        self.lines.append("    " * self.depth + text)

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def bind(self, value: Any) -> str:
        self.count += 1
        name = f"c{self.count}"
        self.names[name] = value
        return name

    def assign(self, source: str) -> str:
        name = self.fresh()
        self.line(f"{name} = {source}")
        return name

    def strict(self, args: Sequence[tuple[Expression, str]], source: str) -> str:
        """Assign `source`, or None when one of the arguments is None."""
        nullable = [text for node, text in args if not (isinstance(node, Const) and node.value is not None)]
        if any(isinstance(node, Const) and node.value is None for node, _ in args):
            return "None"
        if not nullable:
            return self.assign(source)
        test = " or ".join(f"{text} is None" for text in dict.fromkeys(nullable))
        return self.assign(f"None if {test} else {source}")

    # Nodes

    def emit(self, node: Expression) -> str:
        """Append the steps that compute the node, and return the variable that holds it."""
        handler = _EMITTERS.get(type(node))
        if handler is None:
            raise NotSupported(f"{type(node).__name__} is not supported in an expression over rows")
        return handler(self, node)

    def const(self, node: Const) -> str:
        value = node.value
        if value is None or value is True or value is False:
            return repr(value)
        return self.bind(value)

    def parameter(self, node: Parameter) -> str:
        return f"parameters[{node.index}]"

    def column(self, node: ColumnRef) -> str:
        key = (node.relation, node.column)
        name = self.columns.get(key)
        if name is None:
            if node.relation not in self.rows:
                raise NotSupported("reference to a row that is not there")
            name = f"r{len(self.columns)}"
            self.columns[key] = name
            self.prologue.append(f"    {name} = rows[{self.rows[node.relation]}][{node.column}]")
        return name

    def call(self, node: FunctionCall) -> str:
        args = [(item, self.emit(item)) for item in node.args]
        return self.apply(node.signature, args)

    def apply(self, signature: Signature, args: Sequence[tuple[Expression, str]]) -> str:
        inline = INLINE.get(signature.key)
        texts = [text for _, text in args]
        if inline is not None:
            return self.strict(args, inline.format(*texts))
        implementation = FUNCTIONS.get(signature.key)
        if implementation is None:
            raise NotSupported(f"function {signature.key} is not supported")
        name = self.bind(implementation.call)
        if implementation.context:
            texts = ["context", *texts]
        source = f"{name}({', '.join(texts)})"
        return self.strict(args, source) if signature.strict else self.assign(source)

    def cast(self, node: Cast) -> str:
        value = self.emit(node.arg)
        convert = self.bind(cast(node.arg.type, node.type, node.explicit))
        return self.strict([(node.arg, value)], f"{convert}(context, {value})")

    def relabel(self, node: Relabel) -> str:
        return self.emit(node.arg)

    def logic(self, node: BoolExpr) -> str:
        """AND and OR: stop at the first deciding value, NULL when none decides and one is NULL."""
        decides = "False" if node.operator == "and" else "True"
        result = self.assign("True" if node.operator == "and" else "False")
        self.line("while True:")
        self.depth += 1
        for item in node.args:
            value = self.emit(item)
            self.line(f"if {value} is {decides}:")
            self.line(f"    {result} = {decides}")
            self.line("    break")
            self.line(f"if {value} is None: {result} = None")
        self.line("break")
        self.depth -= 1
        return result

    def negation(self, node: NotExpr) -> str:
        value = self.emit(node.arg)
        return self.strict([(node.arg, value)], f"not {value}")

    def null_test(self, node: NullTest) -> str:
        value = self.emit(node.arg)
        return self.assign(f"{value} is {'not ' if node.negated else ''}None")

    def bool_test(self, node: BoolTest) -> str:
        value = self.emit(node.arg)
        return self.assign(f"{value} is {'not ' if node.negated else ''}{node.value!r}")

    def distinct(self, node: DistinctTest) -> str:
        left, right = self.emit(node.left), self.emit(node.right)
        equal = self.apply(node.signature, [(node.left, left), (node.right, right)])
        same = f"({left} is None and {right} is None) if ({left} is None or {right} is None) else {equal}"
        return self.assign(same if node.negated else f"not ({same})")

    def case(self, node: CaseExpr) -> str:
        result = self.fresh()
        self.line("while True:")
        self.depth += 1
        for condition, value_node in node.branches:
            test = self.emit(condition)
            self.line(f"if {test} is True:")
            self.depth += 1
            self.line(f"{result} = {self.emit(value_node)}")
            self.line("break")
            self.depth -= 1
        self.line(f"{result} = {self.emit(node.default)}")
        self.line("break")
        self.depth -= 1
        return result

    def coalesce(self, node: Coalesce) -> str:
        result = self.assign("None")
        self.line("while True:")
        self.depth += 1
        for item in node.args:
            self.line(f"{result} = {self.emit(item)}")
            self.line(f"if {result} is not None: break")
        self.line("break")
        self.depth -= 1
        return result

    def nullif(self, node: NullIf) -> str:
        left = self.emit(node.left)
        compared = [(item, self.emit(item)) for item in (node.compared_left, node.compared_right)]
        equal = self.apply(node.signature, compared)
        return self.assign(f"None if {equal} is True else {left}")

    def extreme(self, node: Extreme) -> str:
        result = self.assign("None")
        for item in node.args:
            value = self.emit(item)
            self.line(f"if {value} is not None:")
            self.depth += 1
            self.line(f"if {result} is None: {result} = {value}")
            self.line("else:")
            self.depth += 1
            pair = [(item, value), (item, result)] if node.name == "least" else [(item, result), (item, value)]
            less = self.apply(node.signature, pair)
            self.line(f"if {less}: {result} = {value}")
            self.depth -= 2
        return result

    def in_list(self, node: InList) -> str:
        arg = self.emit(node.arg)
        if all(isinstance(item, Const) for item in node.items) and node.arg.type.oid in _HASHED:
            values = [item.value for item in node.items if isinstance(item, Const)]
            known = self.bind(frozenset(value for value in values if value is not None))
            missing = "None" if None in values else "False"
            found = self.assign(f"None if {arg} is None else True if {arg} in {known} else {missing}")
        else:
            found = self.assign("None" if not node.items else "False")
            self.line("while True:")
            self.depth += 1
            for item in node.items:
                equal = self.apply(node.signature, [(node.arg, arg), (item, self.emit(item))])
                self.line(f"if {equal} is True:")
                self.line(f"    {found} = True")
                self.line("    break")
                self.line(f"if {equal} is None: {found} = None")
            self.line("break")
            self.depth -= 1
        return self.assign(f"None if {found} is None else not {found}") if node.negated else found

    def array(self, node: ArrayExpr) -> str:
        items = [self.emit(item) for item in node.items]
        return self.assign("(" + "".join(f"{item}, " for item in items) + ")")

    def array_test(self, node: ArrayTest) -> str:
        left, array = self.emit(node.left), self.emit(node.array)
        result, item = self.fresh(), self.fresh()
        decides = "False" if node.every else "True"
        self.line(f"{result} = None if {array} is None else {'True' if node.every else 'False'}")
        self.line(f"for {item} in {array} or ():")
        self.depth += 1
        probe = Parameter(SqlType(node.signature.args[1]), 0)
        test = self.apply(node.signature, [(node.left, left), (probe, item)])
        self.line(f"if {test} is {decides}:")
        self.line(f"    {result} = {decides}")
        self.line("    break")
        self.line(f"if {test} is None: {result} = None")
        self.depth -= 1
        return result

    def refuse(self, node: Expression) -> str:
        raise NotSupported(f"{type(node).__name__} is not supported in an expression over rows")


_EMITTERS: Final[dict[type[Expression], Callable[[_Compiler, Any], str]]] = {
    Const: _Compiler.const,
    Parameter: _Compiler.parameter,
    ColumnRef: _Compiler.column,
    FunctionCall: _Compiler.call,
    Cast: _Compiler.cast,
    Relabel: _Compiler.relabel,
    BoolExpr: _Compiler.logic,
    NotExpr: _Compiler.negation,
    NullTest: _Compiler.null_test,
    BoolTest: _Compiler.bool_test,
    DistinctTest: _Compiler.distinct,
    CaseExpr: _Compiler.case,
    Coalesce: _Compiler.coalesce,
    NullIf: _Compiler.nullif,
    Extreme: _Compiler.extreme,
    InList: _Compiler.in_list,
    ArrayExpr: _Compiler.array,
    ArrayTest: _Compiler.array_test,
    AggregateCall: _Compiler.refuse,
    GroupingCall: _Compiler.refuse,
    WindowCall: _Compiler.refuse,
    SubqueryExpr: _Compiler.refuse,
}


def fold(expression: Expression, parameters: Sequence[Any], context: EvaluationContext) -> Const:
    """Return a constant expression's value. Raises what its evaluation raises."""
    return Const(expression.type, evaluator(expression)((), parameters, context))
