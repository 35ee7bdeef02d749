"""The state of binding one statement, and what every part of the binder uses."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import coerce, errors
from services.storage.sql.bind.context import BindContext, ParameterTypes
from services.storage.sql.bind.resolve import (
    Ambiguous,
    Candidate,
    concrete_result,
    concrete_types,
    resolve_function,
    resolve_operator,
)
from services.storage.sql.bind.signatures import FUNCTIONS, OPERATORS, PREFIX_OPERATORS, Signature
from services.storage.sql.bind.tree import (
    Expression,
    FunctionCall,
    TableRelation,
)
from services.storage.sql.bind.type_catalog import ANYNONARRAY

_RANK = {"i": 0, "s": 1, "v": 2}


class Binder:
    """Binds one statement: relation numbers, parameter types, the tables it met, its volatility."""

    __slots__ = ("context", "next_number", "parameters", "tables", "view_depth", "volatility")

    def __init__(self, context: BindContext, parameter_oids: Sequence[int] = ()) -> None:
        self.context = context
        self.parameters = ParameterTypes(parameter_oids)
        self.next_number = 0
        self.tables: list[TableRelation] = []
        self.volatility = "i"
        self.view_depth = 0

    def number(self) -> int:
        """Return a new relation number."""
        self.next_number += 1
        return self.next_number

    def note_volatility(self, signature: Signature) -> None:
        if _RANK[signature.volatility] > _RANK[self.volatility]:
            self.volatility = signature.volatility

    def coerce(
        self, expression: Expression, target: SqlType, context: str = "i", position: int | None = None
    ) -> Expression:
        return coerce.coerce_or_fail(self.parameters, expression, target, context, position)

    def boolean(self, expression: Expression, construct: str, position: int | None) -> Expression:
        return coerce.coerce_to_boolean(self.parameters, expression, construct, position)

    def settled(self, expression: Expression) -> Expression:
        """Return an expression whose unknown literal or parameter has become text, as in a select list."""
        if expression.type.oid == Oid.UNKNOWN:
            return self.coerce(expression, SqlType(Oid.TEXT), "e")
        return expression

    def operator(self, name: str, args: Sequence[Expression], position: int | None) -> FunctionCall:
        """Bind a binary or prefix operator. Raises 42883."""
        signature, converted, result = self.operator_parts(name, args, position)
        if name == "||" and ANYNONARRAY in signature.args:
            # text || anything is text || anything::text.
            return self.operator(name, [self.coerce(item, SqlType(Oid.TEXT), "e", position) for item in args], position)
        return FunctionCall(SqlType(result), signature, tuple(converted))

    def operator_parts(
        self, name: str, args: Sequence[Expression], position: int | None
    ) -> tuple[Signature, list[Expression], int]:
        table = OPERATORS if len(args) == 2 else PREFIX_OPERATORS
        types = [item.type for item in args]
        try:
            candidate = resolve_operator(table.get(name, ()), [item.oid for item in types])
        except Ambiguous:
            raise errors.ambiguous_operator(name, types, position) from None
        if candidate is None:
            raise errors.undefined_operator(name, types, position)
        converted, result = self.arguments(candidate, args, [position] * len(args))
        self.note_volatility(candidate.signature)
        return candidate.signature, converted, result

    def arguments(
        self, candidate: Candidate, args: Sequence[Expression], positions: Sequence[int | None]
    ) -> tuple[list[Expression], int]:
        """Convert the arguments of a resolved call; return them and the call's result type."""
        types = concrete_types(candidate.args, [item.type.oid for item in args])
        assert types is not None
        converted = [
            self._argument(item, SqlType(wanted), position)
            for item, wanted, position in zip(args, types, positions, strict=True)
        ]
        return converted, concrete_result(candidate.signature.result, candidate.args, types)

    def _argument(self, item: Expression, wanted: SqlType, position: int | None) -> Expression:
        # A value already of the type keeps its modifier: functions do not care for it.
        return item if item.type.oid == wanted.oid else self.coerce(item, wanted, "i", position)

    def function(self, name: str, args: Sequence[Expression], position: int | None, kinds: str = "f") -> FunctionCall:
        """Bind a call of an ordinary function. Raises 42883, 42725."""
        candidate = self.resolve(name, args, position, kinds)
        converted, result = self.arguments(candidate, args, [position] * len(args))
        self.note_volatility(candidate.signature)
        return FunctionCall(SqlType(result), candidate.signature, tuple(converted))

    def resolve(self, name: str, args: Sequence[Expression], position: int | None, kinds: str) -> Candidate:
        types = [item.type for item in args]
        overloads = [item for item in FUNCTIONS.get(name, ()) if item.kind in kinds]
        try:
            candidate = resolve_function(overloads, [item.oid for item in types])
        except Ambiguous:
            raise errors.ambiguous_function(name, types, position) from None
        if candidate is None:
            raise errors.undefined_function(name, types, position)
        return candidate

    def refuse_unhandled(self, node: exp.Expr, *handled: str) -> None:
        """Raise NotSupported when the node carries something that its binding does not look at."""
        for key, value in node.args.items():
            if key not in handled and value not in (None, False, []):
                raise errors.unsupported(
                    f"{type(node).__name__.upper()} with {key.strip('_').replace('_', ' ').upper()}", node
                )


def too_many_columns(name: str, limit: int, position: int | None) -> OrbitError:
    return OrbitError(f"{name} has more than {limit} columns", sqlstate="54011", position=position)
