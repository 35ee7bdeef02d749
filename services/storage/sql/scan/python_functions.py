"""Python inside DuckDB: functions over Arrow columns that run what the evaluator compiles.

Each function is named for what it computes and registered once for the database. Its first argument is the number of
the running query, by which it finds the session's context and leaves its errors.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import duckdb
import pyarrow as pa

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import Expression
from services.storage.sql.evaluate import EvaluationContext, evaluator
from services.storage.sql.scan.arrow_values import duckdb_type, to_arrow, to_values

RowFunction = Callable[..., Any]


class Running:
    """One query in execution, as its Python functions see it."""

    __slots__ = ("context", "error", "number", "parameters")

    def __init__(self, number: int, context: EvaluationContext, parameters: Sequence[Any]) -> None:
        self.number = number
        self.context = context
        self.parameters = parameters
        self.error: OrbitError | None = None


class PythonFunctions:
    """The functions registered with one DuckDB database, and the queries that run on it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._running: dict[int, Running] = {}
        self._numbers = itertools.count(1)

    def start(self, context: EvaluationContext, parameters: Sequence[Any]) -> Running:
        running = Running(next(self._numbers), context, parameters)
        self._running[running.number] = running
        return running

    def stop(self, running: Running) -> None:
        self._running.pop(running.number, None)

    def expression(self, template: Expression, args: Sequence[int]) -> str:
        """Register an expression over columns 0.. of relation 0 with these types; return the function's name."""
        digest = hashlib.blake2b(repr((template, tuple(args))).encode(), digest_size=12).hexdigest()
        name = f"orbit_{digest}"
        if name not in self._names:
            evaluate = evaluator(template, (0,))

            def call(running: Running, *values: Any) -> Any:
                return evaluate((values,), running.parameters, running.context)

            self.register(name, call, args, template.type.oid)
        return name

    def register(self, name: str, call: RowFunction, args: Sequence[int], result: int) -> None:
        """Make `call(running, *values)` a DuckDB function over columns of these types."""
        with self._lock:
            if name in self._names:
                return
            wrapped = self._wrap(call, tuple(args), result)
            create: Any = self._connection.create_function
            create(
                name,
                wrapped,
                ["BIGINT", *(duckdb_type(oid) for oid in args)],
                duckdb_type(result),
                type="arrow",
                null_handling="special",
            )
            self._names.add(name)

    def _wrap(self, call: RowFunction, args: tuple[int, ...], result: int) -> Callable[..., pa.Array]:
        def run(number: pa.ChunkedArray, *columns: pa.ChunkedArray) -> pa.Array:
            running = self._running[number[0].as_py()]
            try:
                values = [to_values(column, oid) for column, oid in zip(columns, args, strict=True)]
                if not values:
                    only = call(running)
                    return to_arrow([only] * len(number), result)
                return to_arrow([call(running, *row) for row in zip(*values, strict=True)], result)
            except OrbitError as error:
                running.error = error
                raise

        # DuckDB takes the number of parameters from the signature.
        return _with_arity(run, len(args) + 1)


def _with_arity(run: Callable[..., pa.Array], count: int) -> Callable[..., pa.Array]:
    names = ", ".join(f"a{at}" for at in range(count))
    scope: dict[str, Any] = {"run": run}
    exec(f"def call({names}): return run({names})", scope)  # noqa: S102 - made of positions only
    wrapped: Callable[..., pa.Array] = scope["call"]
    return wrapped


_NINE: Final = str.maketrans("0123456789", "9876543210")


def numeric_key(value: Decimal | None) -> str | None:
    """Return text that sorts, in byte order, as numerics do, and is equal for equal values."""
    if value is None:
        return None
    if value.is_nan():
        return "9"
    if value.is_infinite():
        return "8" if value > 0 else "1"
    if not value:
        return "5"
    digits = "".join(map(str, value.as_tuple().digits)).lstrip("0").rstrip("0")
    exponent = value.adjusted()
    # The exponent comes first; a terminator below every digit ends the digits.
    body = f"{exponent + 500_000:07d}{digits}"
    if value > 0:
        return f"7{body}!"
    return f"3{body.translate(_NINE)}~"


def register_numeric_key(functions: PythonFunctions) -> None:
    functions.register("orbit_numeric_key", lambda running, value: numeric_key(value), (Oid.NUMERIC,), Oid.TEXT)
