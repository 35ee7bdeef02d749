"""Aggregates and window functions in generated SQL.

Sums and counts are DuckDB's, with PostgreSQL's result types; averages and variances of exact numbers are finished by
Python from sums; what DuckDB lacks or computes differently runs in Python over the list of values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import AggregateCall, Const, Expression, Frame, SortKey, WindowCall
from services.storage.sql.bind.type_catalog import NUMERIC, array_of
from services.storage.sql.evaluate import numerics as exact
from services.storage.sql.evaluate.dates import interval_key, interval_times
from services.storage.sql.scan import numerics
from services.storage.sql.scan.arrow_values import duckdb_type
from services.storage.sql.scan.pieces import MAX_PRECISION, Piece
from services.storage.sql.scan.python_functions import numeric_key

if TYPE_CHECKING:
    from services.storage.sql.scan.generator import Generator

_INTEGERS: Final = frozenset((Oid.INT2, Oid.INT4, Oid.INT8))
_SPREAD: Final = frozenset(("stddev", "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop"))
_SAME: Final = frozenset(("bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"))


def _order(generator: Generator, keys: Sequence[SortKey]) -> str:
    if not keys:
        return ""
    return "ORDER BY " + ", ".join(
        f"{generator.comparable(key.expression)} {'DESC' if key.descending else 'ASC'} "
        f"NULLS {'FIRST' if key.nulls_first else 'LAST'}"
        for key in keys
    )


class _Call:
    """One aggregate call as text: the parts around the argument that FILTER, DISTINCT, ORDER BY and OVER make."""

    def __init__(self, generator: Generator, node: AggregateCall | WindowCall) -> None:
        self.distinct = isinstance(node, AggregateCall) and node.distinct
        order = node.order if isinstance(node, AggregateCall) and not node.within_group else ()
        # DuckDB refuses to sort by a constant.
        sorting = [key for key in order if not isinstance(generator.folded(key.expression), Const)]
        self.order = _order(generator, sorting)
        self.filter = "" if node.filter is None else f" FILTER (WHERE {generator.sql(node.filter)})"
        self.over = ""
        if isinstance(node, WindowCall):
            generator.quiet, before = True, generator.quiet
            self.over = f" OVER ({_window(generator, node)})"
            generator.quiet = before

    def __call__(self, name: str, *args: str, distinct: bool | None = None, ordered: bool = False) -> str:
        unique = "DISTINCT " if (self.distinct if distinct is None else distinct) else ""
        order = f" {self.order}" if ordered and self.order else ""
        return f"{name}({unique}{', '.join(args)}{order}){self.filter}{self.over}"


def emit_aggregate(generator: Generator, node: AggregateCall) -> Piece:
    return _aggregate(generator, node, _Call(generator, node))


def emit_window(generator: Generator, node: WindowCall) -> Piece:
    if node.signature.kind == "a":
        return _aggregate(generator, node, _Call(generator, node))
    call = _Call(generator, node)
    name = node.signature.name
    if name in ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist"):
        return Piece(call(name), node.type)
    if name == "ntile":
        return Piece(f"CAST({call(name, f'CAST({generator.sql(node.args[0])} AS BIGINT)')} AS INTEGER)", node.type)
    pieces = [generator.emit(item) for item in node.args]
    first = pieces[0]
    if first.type.oid == Oid.NUMERIC and (len(pieces) == 3 or first.scale is not None):
        pieces = [
            Piece(numerics.text_form(item), item.type) if item.type.oid == Oid.NUMERIC else item for item in pieces
        ]
        first = pieces[0]
    return Piece(call(name, *(item.sql for item in pieces)), node.type, first.decimal)


def _window(generator: Generator, node: WindowCall) -> str:
    parts: list[str] = []
    if node.partition:
        parts.append("PARTITION BY " + ", ".join(generator.comparable(item) for item in node.partition))
    if node.order:
        parts.append(_order(generator, node.order))
    if node.frame is not None:
        parts.append(_frame(generator, node.frame))
    return " ".join(parts)


def _frame(generator: Generator, frame: Frame) -> str:
    def bound(part: tuple[str, Expression | None]) -> str:
        word, offset = part
        return word.upper() if offset is None else f"{_offset(generator, offset)} {word.upper()}"

    exclude = "" if frame.exclude is None else f" EXCLUDE {frame.exclude.upper()}"
    return f"{frame.mode.upper()} BETWEEN {bound(frame.start)} AND {bound(frame.end)}{exclude}"


def _offset(generator: Generator, node: Expression) -> str:
    folded = generator.folded(node)
    if isinstance(folded, Const):
        if folded.value is None:
            raise OrbitError("frame starting offset must not be null", sqlstate="22004")
        if isinstance(folded.value, int | float | Decimal) and folded.value < 0:
            raise OrbitError("frame starting offset must not be negative", sqlstate="22013")
    return generator.sql(node)


def _aggregate(generator: Generator, node: AggregateCall | WindowCall, call: _Call) -> Piece:
    name = node.signature.name
    if name == "count":
        if not node.args:
            return Piece(call("count", "*", distinct=False), node.type)
        return Piece(call("count", generator.comparable(node.args[0])), node.type)
    source = node.args[0].type.oid if node.args else 0
    if name == "sum":
        return _sum(generator, node, call, source)
    if name == "avg":
        return _avg(generator, node, call, source)
    if name in ("min", "max"):
        return _extreme(generator, node, call, source)
    if name in _SAME:
        return Piece(call(name, generator.sql(node.args[0])), node.type)
    if name == "every":
        return Piece(call("bool_and", generator.sql(node.args[0])), node.type)
    if (
        name == "string_agg"
        and isinstance(generator.folded(node.args[1]), Const)
        and not call.distinct
        and not call.over
    ):
        return Piece(call("string_agg", *(generator.sql(item) for item in node.args), ordered=True), node.type)
    if name == "array_agg" and not call.distinct:
        return Piece(call("list", generator.sql(node.args[0]), ordered=True), node.type)
    if name in _SPREAD and source not in (Oid.FLOAT4, Oid.FLOAT8):
        return _spread(generator, node, call, source)
    return _over_list(generator, node, call)


def _sum(generator: Generator, node: AggregateCall | WindowCall, call: _Call, source: int) -> Piece:
    arg = node.args[0]
    if source in (Oid.INT2, Oid.INT4):
        return Piece(f"CAST({call('sum', generator.sql(arg))} AS BIGINT)", node.type)
    if source == Oid.INT8:
        total = call("sum", generator.sql(arg))
        if generator.wide:
            return Piece(f"CAST({total} AS VARCHAR)", node.type)
        return Piece(f"CAST({total} AS DECIMAL({MAX_PRECISION},0))", node.type, (MAX_PRECISION, 0))
    if source == Oid.FLOAT8:
        return Piece(call("sum", generator.sql(arg)), node.type)
    if source == Oid.NUMERIC:
        piece = generator.emit(arg)
        if piece.decimal is not None:
            total = call("sum", piece.sql)
            scale = (
                None
                if piece.scale is None
                else call("max", f"CASE WHEN {piece.sql} IS NOT NULL THEN {piece.scale} END", distinct=False)
            )
            return Piece(total, NUMERIC, (MAX_PRECISION, piece.decimal[1]), scale)
    return _over_list(generator, node, call)


def _avg(generator: Generator, node: AggregateCall | WindowCall, call: _Call, source: int) -> Piece:
    arg = node.args[0]
    if source in (Oid.FLOAT4, Oid.FLOAT8):
        return Piece(call("avg", f"CAST({generator.sql(arg)} AS DOUBLE)"), node.type)
    if source in _INTEGERS:
        value = generator.sql(arg)
        total, count = f"CAST({call('sum', value)} AS VARCHAR)", call("count", value)
    elif source == Oid.NUMERIC and generator.emit(arg).decimal is not None:
        value = generator.emit(arg).sql
        total, count = numerics.text_form(_sum(generator, node, call, source)), call("count", value)
    else:
        return _over_list(generator, node, call)
    generator.functions.register(
        "orbit_average",
        lambda running, total, count: None if total is None else exact.average(total, count),
        (Oid.NUMERIC, Oid.INT8),
        Oid.NUMERIC,
    )
    return Piece(f"orbit_average({generator.running.number}, {total}, {count})", node.type)


def _extreme(generator: Generator, node: AggregateCall | WindowCall, call: _Call, source: int) -> Piece:
    name = node.signature.name
    piece = generator.emit(node.args[0])
    if source == Oid.NUMERIC:
        if piece.decimal is not None and piece.scale is None:
            return Piece(call(name, piece.sql, distinct=False), node.type, piece.decimal)
        text = Piece(numerics.text_form(piece), NUMERIC)
        return Piece(
            call(f"arg_{name}", text.sql, numerics.key(text, generator.running.number), distinct=False), node.type
        )
    if source == Oid.BPCHAR:
        return Piece(call(f"arg_{name}", piece.sql, f"rtrim({piece.sql}, ' ')", distinct=False), node.type)
    return Piece(call(name, piece.sql, distinct=False), node.type)


def _spread(generator: Generator, node: AggregateCall | WindowCall, call: _Call, source: int) -> Piece:
    """Variance and standard deviation of exact numbers, from count, sum and sum of squares."""
    if source not in _INTEGERS or source == Oid.INT8:
        return _over_list(generator, node, call)
    value = f"CAST({generator.sql(node.args[0])} AS HUGEINT)"
    name = node.signature.name
    sample, root = not name.endswith("_pop"), name.startswith("stddev")
    function = f"orbit_spread_{'s' if sample else 'p'}{'r' if root else 'v'}"

    def finish(running: Any, count: int, total: Decimal | None, squares: Decimal | None) -> Decimal | None:
        if total is None or squares is None:
            return None
        return exact.variance(count, total, squares, sample, root)

    generator.functions.register(function, finish, (Oid.INT8, Oid.NUMERIC, Oid.NUMERIC), Oid.NUMERIC)
    if call.distinct:
        return _over_list(generator, node, call)
    args = (
        call("count", value),
        f"CAST({call('sum', value)} AS VARCHAR)",
        f"CAST({call('sum', f'{value} * {value}')} AS VARCHAR)",
    )
    return Piece(f"{function}({generator.running.number}, {', '.join(args)})", node.type)


# Aggregates over the list of their values


def _over_list(generator: Generator, node: AggregateCall | WindowCall, call: _Call) -> Piece:
    name = node.signature.name
    finish = _FINISH.get(name)
    if finish is None:
        raise NotSupported(f"aggregate {name} is not supported")
    within = isinstance(node, AggregateCall) and node.within_group
    direct = list(node.args) if within else []
    keys = list(node.order) if isinstance(node, AggregateCall) and within else []
    values: list[Expression] = [key.expression for key in keys] if within else list(node.args)
    if any(not isinstance(generator.folded(item), Const) for item in direct):
        raise NotSupported(f"aggregate {name} with a computed direct argument is not supported")
    descending = bool(keys and keys[0].descending)
    types = [item.type.oid for item in values]
    arrays = [array_of(oid) for oid in types]
    if any(array is None for array in arrays):
        raise NotSupported(f"aggregate {name} of this type is not supported")
    distinct = call.distinct
    function = "orbit_list_" + "_".join(
        [name, "d" if distinct else "a", "r" if descending else "f", *map(str, types), str(node.type.oid)]
    )
    direct_types = [item.type.oid for item in direct]

    def run(running: Any, *lists: Any) -> Any:
        given, columns = lists[: len(direct_types)], lists[len(direct_types) :]
        if columns[0] is None:
            return finish([], given, descending, types)
        rows = list(zip(*columns, strict=True)) if len(columns) > 1 else list(columns[0])
        return finish(_unique(rows) if distinct else rows, given, descending, types)

    generator.functions.register(
        function, run, [*direct_types, *(array for array in arrays if array is not None)], node.type.oid
    )
    args = [generator.sql(item) for item in direct]
    args += [
        call("list", f"CAST({generator.sql(item)} AS {duckdb_type(item.type.oid)})", distinct=False, ordered=True)
        for item in values
    ]
    return Piece(f"{function}({generator.running.number}, {', '.join(args)})", node.type)


def _unique(rows: Sequence[Any]) -> list[Any]:
    seen: set[Any] = set()
    kept: list[Any] = []
    for row in rows:
        key = numeric_key(row) if isinstance(row, Decimal) else row
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


Finish = Callable[[list[Any], Sequence[Any], bool, Sequence[int]], Any]


def _present(rows: list[Any]) -> list[Any]:
    return [row for row in rows if row is not None]


def _sum_list(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    values = _present(rows)
    if not values:
        return None
    if isinstance(values[0], tuple):
        return tuple(sum(value[at] for value in values) for at in range(3))
    if isinstance(values[0], float):
        # real adds in single precision, one after the other.
        return float(np.cumsum(np.array(values, np.float32), dtype=np.float32)[-1])
    total = values[0]
    for value in values[1:]:
        total = exact.add(total, value)
    return total


def _avg_list(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    values = _present(rows)
    if not values:
        return None
    if isinstance(values[0], tuple):
        total = _sum_list(values, direct, descending, types)
        return interval_times(total, 1.0 / len(values))
    return exact.average(
        exact.any_numeric(_sum_list([exact.any_numeric(v) for v in values], direct, descending, types)), len(values)
    )


def _spread_list(sample: bool, root: bool) -> Finish:
    def finish(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
        values = _present(rows)
        if values and isinstance(values[0], float):
            return _float_spread(values, sample, root)
        numbers = [exact.any_numeric(value) for value in values]
        if not numbers:
            return None
        total = squares = exact.ZERO
        for number in numbers:
            total, squares = exact.add(total, number), exact.add(squares, exact.multiply(number, number))
        return exact.variance(len(numbers), total, squares, sample, root)

    return finish


def _float_spread(values: list[float], sample: bool, root: bool) -> float | None:
    """Youngs and Cramer's updating sum, as PostgreSQL's float8_accum."""
    count, total, spread = 0.0, 0.0, 0.0
    for value in values:
        count += 1
        total += value
        if count > 1:
            difference = value * count - total
            spread += difference * difference / (count * (count - 1))
        elif math.isinf(value) or value != value:
            spread = math.nan
    if count < (2 if sample else 1):
        return None
    variance = spread / (count - 1 if sample else count)
    return math.sqrt(variance) if root else variance


def _percentile_cont(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    values = sorted(_present(rows), reverse=descending)
    fraction = _fraction(direct)
    if not values or fraction is None:
        return None
    at = fraction * (len(values) - 1)
    low, high = math.floor(at), math.ceil(at)
    if low == high:
        return values[low]
    return values[low] + (at - low) * (values[high] - values[low])


def _fraction(direct: Sequence[Any]) -> float | None:
    fraction: float | None = direct[0]
    if fraction is not None and not 0 <= fraction <= 1:
        raise OrbitError(f"percentile value {fraction:g} is not between 0 and 1", sqlstate="22003")
    return fraction


def _sort_key(value: Any) -> Any:
    if isinstance(value, Decimal):
        return numeric_key(value)
    return interval_key(value) if isinstance(value, tuple) else value


def _percentile_disc(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    values = sorted(_present(rows), key=_sort_key, reverse=descending)
    fraction = _fraction(direct)
    if not values or fraction is None:
        return None
    return values[max(math.ceil(fraction * len(values)), 1) - 1]


def _mode(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    values = sorted(_present(rows), key=_sort_key, reverse=descending)
    best, best_count, at = None, 0, 0
    while at < len(values):
        end = at
        while end < len(values) and _sort_key(values[end]) == _sort_key(values[at]):
            end += 1
        if end - at > best_count:
            best, best_count = values[at], end - at
        at = end
    return best


def _string_agg(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    parts: list[str] = []
    for value, separator in rows:
        if value is None:
            continue
        if parts:
            parts.append(separator or "")
        parts.append(value)
    return "".join(parts) if parts else None


def _array_agg(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
    return (
        tuple(sorted(rows, key=lambda row: (row is None, _sort_key(row) if row is not None else 0))) if rows else None
    )


def _regression(name: str) -> Finish:
    def finish(rows: list[Any], direct: Sequence[Any], descending: bool, types: Sequence[int]) -> Any:
        pairs = [row for row in rows if row[0] is not None and row[1] is not None]
        count, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for y, x in pairs:
            count += 1
            sx, sy = sx + x, sy + y
            if count > 1:
                dx, dy, scale = x * count - sx, y * count - sy, 1.0 / (count * (count - 1))
                sxx, syy, sxy = sxx + dx * dx * scale, syy + dy * dy * scale, sxy + dx * dy * scale
        if name == "regr_count":
            return int(count)
        if count < (2 if name == "covar_samp" else 1):
            return None
        if name.startswith("covar"):
            return sxy / (count - 1 if name == "covar_samp" else count)
        if name == "corr":
            return None if sxx == 0 or syy == 0 else sxy / math.sqrt(sxx * syy)
        if sxx == 0:
            return None
        if name == "regr_r2":
            return 1.0 if syy == 0 else (sxy * sxy) / (sxx * syy)
        return sxy / sxx if name == "regr_slope" else (sy - sx * sxy / sxx) / count

    return finish


_FINISH: Final[dict[str, Finish]] = {
    "sum": _sum_list,
    "avg": _avg_list,
    "stddev": _spread_list(True, True),
    "stddev_samp": _spread_list(True, True),
    "stddev_pop": _spread_list(False, True),
    "variance": _spread_list(True, False),
    "var_samp": _spread_list(True, False),
    "var_pop": _spread_list(False, False),
    "percentile_cont": _percentile_cont,
    "percentile_disc": _percentile_disc,
    "mode": _mode,
    "string_agg": _string_agg,
    "array_agg": _array_agg,
    **{
        name: _regression(name)
        for name in ("corr", "covar_pop", "covar_samp", "regr_slope", "regr_intercept", "regr_r2", "regr_count")
    },
}
