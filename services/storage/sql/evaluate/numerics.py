"""numeric: exact arithmetic with PostgreSQL's result scales.

A value is a `Decimal` whose exponent is minus its display scale. NaN and infinities are Decimals too.
The scale rules are those of PostgreSQL's numeric.c, where digits are groups of four.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.values.numbers import EXACT, normal_numeric
from services.storage.sql.evaluate.numbers import division_by_zero, log_domain
from services.storage.sql.evaluate.numbers import power as float_power
from services.storage.sql.evaluate.registry import function, keys

ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)
NAN: Final = Decimal("NaN")
MIN_SIGNIFICANT: Final = 16
MAX_SCALE: Final = 1000


def scale_of(value: Decimal) -> int:
    """Return the display scale of a finite value."""
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def _weight(value: Decimal) -> tuple[int, int]:
    """Return the weight (in base 10000) and the first digit of a finite value; (0, 0) for zero."""
    if not value:
        return 0, 0
    weight = value.adjusted() // 4
    return weight, int(abs(value).scaleb(-4 * weight, context=EXACT))


def to_scale(value: Decimal, scale: int, rounding: str = ROUND_HALF_UP) -> Decimal:
    """Return the value rounded to a display scale >= 0."""
    if not value.is_finite():
        return value
    rounded = value.quantize(Decimal((0, (1,), -scale)), rounding=rounding, context=EXACT)
    return rounded or Decimal((0, (0,), -scale))


def _finite(result: Decimal) -> Decimal:
    """Check the size of a result and drop a negative zero."""
    return normal_numeric(result) if result.is_finite() else result


@function("+(numeric,numeric)")
def add(a: Decimal, b: Decimal) -> Decimal:
    return _finite(EXACT.add(a, b))


@function("-(numeric,numeric)")
def subtract(a: Decimal, b: Decimal) -> Decimal:
    return _finite(EXACT.subtract(a, b))


@function("*(numeric,numeric)")
def multiply(a: Decimal, b: Decimal) -> Decimal:
    return _finite(EXACT.multiply(a, b))


def division_scale(a: Decimal, b: Decimal) -> int:
    """Return the display scale of a / b (select_div_scale)."""
    (weight_a, first_a), (weight_b, first_b) = _weight(a), _weight(b)
    quotient = weight_a - weight_b - (first_a <= first_b)
    scale = MIN_SIGNIFICANT - quotient * 4
    return min(max(scale, scale_of(a), scale_of(b), 0), MAX_SCALE)


@function("/(numeric,numeric)")
def divide(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return NAN
    if not b:
        raise division_by_zero()
    if b.is_infinite():
        return NAN if a.is_infinite() else ZERO
    if a.is_infinite():
        return EXACT.divide(a, b)
    return divide_to_scale(a, b, division_scale(a, b))


def divide_to_scale(a: Decimal, b: Decimal, scale: int) -> Decimal:
    """Return a / b rounded half away from zero at a scale."""
    shift = scale - scale_of(a) + scale_of(b)
    top, bottom = abs(_coefficient(a)), abs(_coefficient(b))
    if shift >= 0:
        top *= 10**shift
    else:
        bottom *= 10**-shift
    whole, rest = divmod(top, bottom)
    if rest * 2 >= bottom:
        whole += 1
    if (a < 0) != (b < 0):
        whole = -whole
    return Decimal(whole).scaleb(-scale, context=EXACT)


def _coefficient(value: Decimal) -> int:
    return int(value.scaleb(scale_of(value), context=EXACT))


@function("%(numeric,numeric)", "mod(numeric,numeric)")
def modulo(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return NAN
    if not b:
        raise division_by_zero()
    if a.is_infinite():
        return NAN
    if b.is_infinite():
        return a
    rest = EXACT.remainder(a, b)
    return to_scale(rest, max(scale_of(a), scale_of(b)))


@function("div(numeric,numeric)")
def whole_quotient(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan():
        return NAN
    if not b:
        raise division_by_zero()
    return EXACT.divide_int(a, b) + 0


def _order(value: Decimal) -> tuple[bool, Decimal]:
    return (True, ZERO) if value.is_nan() else (False, value)


_TESTS: Final[dict[str, Callable[[Decimal, Decimal], bool]]] = {
    "=": lambda a, b: _order(a) == _order(b),
    "<>": lambda a, b: _order(a) != _order(b),
    "<": lambda a, b: _order(a) < _order(b),
    "<=": lambda a, b: _order(a) <= _order(b),
    ">": lambda a, b: _order(a) > _order(b),
    ">=": lambda a, b: _order(a) >= _order(b),
}
for _name, _test in _TESTS.items():
    function(f"{_name}(numeric,numeric)")(_test)

function("-(numeric)")(lambda v: v if v.is_nan() else v.copy_negate() if v else abs(v))
function("+(numeric)")(lambda v: v)
function("@(numeric)", "abs(numeric)")(lambda v: v.copy_abs())
function("sign(numeric)")(lambda v: v if v.is_nan() else Decimal((v > 0) - (v < 0)))
function(*keys("ceil ceiling", "numeric"))(lambda v: to_scale(v, 0, ROUND_CEILING))
function("floor(numeric)")(lambda v: to_scale(v, 0, ROUND_FLOOR))
function("trunc(numeric)")(lambda v: to_scale(v, 0, ROUND_DOWN))
function("round(numeric)")(lambda v: to_scale(v, 0))
function("scale(numeric)")(scale_of)


@function("trim_scale(numeric)")
def trim_scale(value: Decimal) -> Decimal:
    if not value.is_finite():
        return value
    normal = value.normalize(context=EXACT)
    return to_scale(normal, max(scale_of(normal), 0))


function("min_scale(numeric)")(lambda v: scale_of(trim_scale(v)))


def _rounded(value: Decimal, digits: int, rounding: str) -> Decimal:
    if not value.is_finite():
        return value
    digits = max(min(digits, MAX_SCALE * 2), -MAX_SCALE * 2)
    if digits >= 0:
        return to_scale(value, digits, rounding)
    rounded = value.quantize(Decimal((0, (1,), -digits)), rounding=rounding, context=EXACT)
    return to_scale(rounded, 0)


function("round(numeric,int4)")(lambda v, digits: _rounded(v, digits, ROUND_HALF_UP))
function("trunc(numeric,int4)")(lambda v, digits: _rounded(v, digits, ROUND_DOWN))


# Roots, exponentials and logarithms


def _bounded(scale: int, value: Decimal) -> int:
    return min(max(scale, scale_of(value), 0), MAX_SCALE)


def _context(digits: int) -> Context:
    return Context(prec=max(digits, 30), Emin=EXACT.Emin, Emax=EXACT.Emax, traps=[])


@function("sqrt(numeric)")
def square_root(value: Decimal) -> Decimal:
    if value.is_nan():
        return value
    if value < 0:
        raise OrbitError("cannot take square root of a negative number", sqlstate="2201F")
    if value.is_infinite():
        return value
    weight = _weight(value)[0]
    # Halved towards minus infinity, so that small values keep as many digits as large ones.
    sweight = (weight + 1) * 4 // 2 - 1 if weight >= 0 else 1 - (1 - weight) * 2
    scale = _bounded(MIN_SIGNIFICANT - sweight, value)
    digits = scale + max(value.adjusted(), 0) // 2 + 5
    return to_scale(_context(digits + 10).sqrt(value), scale)


@function("exp(numeric)")
def exponential(value: Decimal) -> Decimal:
    if not value.is_finite():
        return ZERO if value < 0 else value
    tens = float(value) * 0.434294481903252
    if tens >= 131072:
        raise OrbitError("value overflows numeric format", sqlstate="22003")
    tens = max(tens, -MAX_SCALE * 2.0)
    scale = _bounded(MIN_SIGNIFICANT - int(tens), value)
    if tens < -MAX_SCALE:
        return to_scale(ZERO, scale)
    return to_scale(_context(scale + max(int(tens), 0) + 10).exp(value), scale)


def _log_weight(value: Decimal) -> int:
    """Estimate the decimal weight of ln(value) (estimate_ln_dweight)."""
    if Decimal("0.9") <= value <= Decimal("1.1"):
        rest = abs(value - 1)
        return rest.adjusted() if rest else 0
    logarithm = abs(float(value.ln(_context(30))))
    return int(math.log10(logarithm)) if logarithm > 0 else 0


@function("ln(numeric)")
def natural_log(value: Decimal) -> Decimal:
    if not value.is_finite():
        if value < 0:
            log_domain(value)
        return value
    log_domain(value)
    scale = _bounded(MIN_SIGNIFICANT - _log_weight(value), value)
    return to_scale(_context(scale + 20).ln(value), scale)


@function("log(numeric)", "log10(numeric)")
def common_log(value: Decimal) -> Decimal:
    return log_of(Decimal(10), value)


@function("log(numeric,numeric)")
def log_of(base: Decimal, value: Decimal) -> Decimal:
    if base.is_nan() or value.is_nan():
        return NAN
    log_domain(base)
    log_domain(value)
    if base == 1:
        raise division_by_zero()
    wide = _context(60)
    result = wide.divide(wide.ln(value), wide.ln(base))
    weight = result.adjusted() if result else 0
    estimate = int(math.log10(abs(float(result)))) if result else 0
    scale = min(
        max(MIN_SIGNIFICANT - (estimate if estimate < 0 else weight), scale_of(base), scale_of(value), 0), MAX_SCALE
    )
    exact = _context(scale + 30)
    return to_scale(exact.divide(exact.ln(value), exact.ln(base)), scale)


@function("^(numeric,numeric)", *keys("power pow", "numeric,numeric"))
def power(base: Decimal, exponent: Decimal) -> Decimal:
    if not base.is_finite() or not exponent.is_finite():
        result = float_power(float(base), float(exponent))
        return Decimal(repr(result)) if math.isinf(result) or result != result else normal_numeric(Decimal(result))
    if not base and exponent < 0:
        raise OrbitError("zero raised to a negative power is undefined", sqlstate="2201F")
    whole = exponent == exponent.to_integral_value()
    if base < 0 and not whole:
        raise OrbitError("a negative number raised to a non-integer power yields a complex result", sqlstate="2201F")
    if not exponent or not base:
        return to_scale(ZERO if exponent else ONE, min(max(MIN_SIGNIFICANT, scale_of(base)), MAX_SCALE))
    tens = float(exponent) * float(_context(30).log10(abs(base)))
    if tens > 131072:
        raise OrbitError("value overflows numeric format", sqlstate="22003")
    if whole:
        scale = min(max(MIN_SIGNIFICANT, scale_of(base)), MAX_SCALE)
    else:
        scale = min(max(MIN_SIGNIFICANT - int(tens), scale_of(base), scale_of(exponent), 0), MAX_SCALE)
    if tens < -MAX_SCALE - 50:
        return to_scale(ZERO, scale)
    context = _context(scale + max(int(tens), 0) + 30)
    return _finite(to_scale(context.power(base, exponent), scale))


# From other numbers


def from_float(value: float, digits: int) -> Decimal:
    """Convert as PostgreSQL does: through 15 (or 6) significant digits."""
    if value != value or math.isinf(value):
        return Decimal(repr(value).replace("inf", "Infinity").replace("nan", "NaN"))
    return normal_numeric(Decimal(f"{value:.{digits}g}"))


def to_integer(value: Decimal, check: Callable[[int], int], name: str) -> int:
    """Round half away from zero and check the range."""
    if not value.is_finite():
        what = "NaN" if value.is_nan() else "infinity"
        raise OrbitError(f"cannot convert {what} to {name}", sqlstate="0A000")
    return check(int(value.to_integral_value(rounding=ROUND_HALF_UP)))


# Finishing of aggregates whose parts are computed elsewhere


def average(total: Decimal, count: int) -> Decimal:
    return divide(total, Decimal(count))


def variance(count: int, total: Decimal, squares: Decimal, sample: bool, root: bool) -> Decimal | None:
    """Return var or stddev of `count` values with this sum and sum of squares (numeric_stddev_internal)."""
    if count < (2 if sample else 1):
        return None
    if total.is_nan() or total.is_infinite():
        return NAN
    n = Decimal(count)
    scale = max(scale_of(total) * 2, scale_of(squares))
    top = EXACT.subtract(EXACT.multiply(n, squares), EXACT.multiply(total, total))
    if top <= 0:
        return ZERO
    bottom = EXACT.multiply(n, n - 1 if sample else n)
    result_scale = division_scale(to_scale(top, scale), bottom)
    if not root:
        return divide_to_scale(top, bottom, result_scale)
    quotient = divide_to_scale(top, bottom, result_scale)
    return to_scale(_context(result_scale * 2 + 30).sqrt(quotient), result_scale)


def any_numeric(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(value)
