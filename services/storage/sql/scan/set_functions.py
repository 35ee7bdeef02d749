"""Set-returning functions, as Python functions that return the list of their rows."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from services.storage.sql.evaluate import arrays, numerics, patterns
from services.storage.sql.evaluate.dates import Interval, interval_key, moment_plus, timestamp_plus

MAX_ROWS: Final = 10_000_000


def _strict(call: Callable[..., Any]) -> Callable[..., Any]:
    def run(running: Any, *args: Any) -> Any:
        if any(arg is None for arg in args):
            return ()
        return tuple(call(running, *args))

    return run


def _zero_step() -> OrbitError:
    return OrbitError("step size cannot equal zero", sqlstate="22023")


def _integers(running: Any, start: int, stop: int, step: int) -> Any:
    if step == 0:
        raise _zero_step()
    values = range(start, stop + (1 if step > 0 else -1), step)
    _check(len(values))
    return values


def _check(count: int) -> None:
    if count > MAX_ROWS:
        raise OrbitError(
            f"generate_series of more than {MAX_ROWS} rows with this step is not supported", sqlstate="0A000"
        )


def _numerics(running: Any, start: Decimal, stop: Decimal, step: Decimal = Decimal(1)) -> Any:
    if not step:
        raise _zero_step()
    if not (start.is_finite() and stop.is_finite() and step.is_finite()):
        raise OrbitError("start value cannot be NaN or infinity", sqlstate="22023")
    rows: list[Decimal] = []
    current = start
    while (current <= stop) if step > 0 else (current >= stop):
        rows.append(current)
        _check(len(rows))
        current = numerics.add(current, step)
    return rows


def _timestamps(running: Any, start: int, stop: int, step: Interval, plus: Any) -> Any:
    direction = interval_key(step)
    if direction == 0:
        raise _zero_step()
    rows: list[int] = []
    current = start
    while (current <= stop) if direction > 0 else (current >= stop):
        rows.append(current)
        _check(len(rows))
        current = plus(current, step)
    return rows


SET_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "generate_series(int4,int4,int4)": _strict(_integers),
    "generate_series(int8,int8,int8)": _strict(_integers),
    "generate_series(numeric,numeric)": _strict(_numerics),
    "generate_series(numeric,numeric,numeric)": _strict(_numerics),
    "generate_series(timestamp,timestamp,interval)": _strict(
        lambda running, start, stop, step: _timestamps(running, start, stop, step, timestamp_plus)
    ),
    "generate_series(timestamptz,timestamptz,interval)": _strict(
        lambda running, start, stop, step: _timestamps(
            running, start, stop, step, lambda value, span: moment_plus(running.context, value, span)
        )
    ),
    "generate_subscripts(anyarray,int4)": _strict(
        lambda running, array, dimension: arrays.subscripts(array, dimension)
    ),
    "regexp_split_to_table(text,text)": _strict(lambda running, value, pattern: patterns.split(value, pattern)),
    "regexp_matches(text,text)": _strict(lambda running, value, pattern: patterns.matches(value, pattern)),
    "regexp_matches(text,text,text)": _strict(lambda running, value, p, flags: patterns.matches(value, p, flags)),
    "pg_partition_ancestors(regclass)": _strict(lambda running, relation: ()),
    "string_to_table(text,text)": _strict(lambda running, value, separator: patterns.to_table(value, separator)),
}
