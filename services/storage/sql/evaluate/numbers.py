"""Integers and floats: overflow is 22003, division by zero 22012, integer division truncates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.values.numbers import to_float32
from services.storage.sql.evaluate.registry import INLINE, function, keys

LIMITS: Final = {
    "int2": (-(1 << 15), (1 << 15) - 1, "smallint"),
    "int4": (-(1 << 31), (1 << 31) - 1, "integer"),
    "int8": (-(1 << 63), (1 << 63) - 1, "bigint"),
}


def out_of_range(name: str) -> OrbitError:
    return OrbitError(f"{name} out of range", sqlstate="22003")


def division_by_zero() -> OrbitError:
    return OrbitError("division by zero", sqlstate="22012")


def checker(name: str) -> Callable[[int], int]:
    """Return the range check of an integer type."""
    low, high, shown = LIMITS[name]

    def check(value: int) -> int:
        if low <= value <= high:
            return value
        raise out_of_range(shown)

    check.__name__ = f"check_{name}"
    return check


CHECKS: Final = {name: checker(name) for name in LIMITS}


def _result(left: str, right: str) -> str:
    order = ("int2", "int4", "int8")
    return order[max(order.index(left), order.index(right))]


def quotient(left: int, right: int) -> int:
    """Divide as C does: towards zero."""
    if right == 0:
        raise division_by_zero()
    whole = abs(left) // abs(right)
    return whole if (left < 0) == (right < 0) else -whole


def remainder(left: int, right: int) -> int:
    """Return the remainder with the sign of the dividend."""
    if right == 0:
        raise division_by_zero()
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def _register_integers() -> None:
    for left in LIMITS:
        for right in LIMITS:
            result = _result(left, right)
            pair = f"({left},{right})"
            check = CHECKS[result]
            for sign in "+-*":
                INLINE[f"{sign}{pair}"] = f"check_{result}({{0}} {sign} {{1}})"
            for name in ("=", "<>", "<", "<=", ">", ">="):
                INLINE[f"{name}{pair}"] = f"({{0}} {_PYTHON.get(name, name)} {{1}})"
            function(f"/{pair}")(_checked(check, quotient))
    for name, check in CHECKS.items():
        function(f"%({name},{name})", f"mod({name},{name})")(remainder)
        function(f"-({name})")(_checked(check, lambda value: -value))
        function(f"+({name})")(lambda value: value)
        function(f"~({name})")(lambda value: ~value)
        function(f"@({name})", f"abs({name})")(_checked(check, abs))
        function(f"&({name},{name})")(lambda a, b: a & b)
        function(f"|({name},{name})")(lambda a, b: a | b)
        function(f"#({name},{name})")(lambda a, b: a ^ b)
        bits = {"int2": 16, "int4": 32, "int8": 64}[name]
        function(f"<<({name},int4)")(_shifter(bits, True))
        function(f">>({name},int4)")(_shifter(bits, False))


_PYTHON: Final = {"=": "==", "<>": "!="}


def _checked(check: Callable[[int], int], call: Callable[..., int]) -> Callable[..., int]:
    return lambda *args: check(call(*args))


def _shifter(bits: int, left: bool) -> Callable[[int, int], int]:
    def shift(value: int, by: int) -> int:
        by %= max(bits, 32)
        moved = value << by if left else value >> by
        moved &= (1 << bits) - 1
        return moved - (1 << bits) if moved >> (bits - 1) else moved

    return shift


def _gcd(left: int, right: int) -> int:
    return math.gcd(left, right)


for _name in ("int4", "int8"):
    function(f"gcd({_name},{_name})")(_checked(CHECKS[_name], _gcd))
    function(f"lcm({_name},{_name})")(_checked(CHECKS[_name], math.lcm))
_register_integers()
for _name in ("=", "<>", "<", "<=", ">", ">="):
    for _type in ("oid,oid", "text,text", "name,name", "name,text", "text,name", "char,char", "bytea,bytea",
    "bool,bool",
                  "date,date", "timestamp,timestamp", "timestamptz,timestamptz", "time,time", "uuid,uuid", "xid,xid",
                  "oidvector,oidvector"):  # fmt: skip
        INLINE[f"{_name}({_type})"] = f"({{0}} {_PYTHON.get(_name, _name)} {{1}})"
    # Trailing spaces of char(n) do not count.
    INLINE[f"{_name}(bpchar,bpchar)"] = f"({{0}}.rstrip(' ') {_PYTHON.get(_name, _name)} {{1}}.rstrip(' '))"

# Strings compare by code point, which is the byte order of UTF-8 and so collation C.


# Floats


def _overflow() -> OrbitError:
    return OrbitError("value out of range: overflow", sqlstate="22003")


def _underflow() -> OrbitError:
    return OrbitError("value out of range: underflow", sqlstate="22003")


def float_key(value: float) -> tuple[bool, float]:
    """Return a sort key under which NaN equals itself and is greater than all others."""
    return (True, 0.0) if value != value else (False, value)


def _narrow(value: float) -> float:
    """Round to float4. Raises 22003 when that overflows or underflows."""
    if math.isinf(value) or value != value:
        return value
    try:
        narrow = to_float32(value)
    except OverflowError:
        raise _overflow() from None
    if math.isinf(narrow):
        raise _overflow()
    if narrow == 0 and value != 0:
        raise _underflow()
    return narrow


def _float_result(value: float, *args: float) -> float:
    if math.isinf(value) and not any(map(math.isinf, args)):
        raise _overflow()
    return value


def _add(a: float, b: float) -> float:
    return _float_result(a + b, a, b)


def _subtract(a: float, b: float) -> float:
    return _float_result(a - b, a, b)


def _multiply(a: float, b: float) -> float:
    value = _float_result(a * b, a, b)
    if value == 0 and a != 0 and b != 0:
        raise _underflow()
    return value


def _divide(a: float, b: float) -> float:
    if b == 0:
        if a != a:
            return a
        raise division_by_zero()
    value = _float_result(a / b, a)
    if value == 0 and a != 0 and not math.isinf(b):
        raise _underflow()
    return value


def power(a: float, b: float) -> float:
    """Raise to a power as PostgreSQL's dpow does."""
    if a != a or b != b:
        return 1.0 if b == 0 or a == 1 else math.nan
    if a == 0 and b < 0:
        raise OrbitError("zero raised to a negative power is undefined", sqlstate="2201F")
    if a < 0 and b != math.floor(b):
        raise OrbitError("a negative number raised to a non-integer power yields a complex result", sqlstate="2201F")
    try:
        value = math.pow(a, b)
    except OverflowError:
        raise _overflow() from None
    if value == 0 and a != 0 and not math.isinf(a) and not math.isinf(b):
        raise _underflow()
    return value


_FLOAT_OPERATORS: Final[dict[str, Callable[[float, float], float]]] = {
    "+": _add, "-": _subtract, "*": _multiply, "/": _divide,
}  # fmt: skip
_FLOAT_TESTS: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": lambda a, b: a == b or (a != a and b != b),
    "<>": lambda a, b: not (a == b or (a != a and b != b)),
    "<": lambda a, b: float_key(a) < float_key(b),
    "<=": lambda a, b: float_key(a) <= float_key(b),
    ">": lambda a, b: float_key(a) > float_key(b),
    ">=": lambda a, b: float_key(a) >= float_key(b),
}


def _narrowed(call: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda a, b: _narrow(call(a, b))


for _sign, _call in _FLOAT_OPERATORS.items():
    function(f"{_sign}(float8,float8)", f"{_sign}(float4,float8)", f"{_sign}(float8,float4)")(_call)
    function(f"{_sign}(float4,float4)")(_narrowed(_call))
for _sign, _test in _FLOAT_TESTS.items():
    function(*keys(_sign, "float8,float8", "float4,float8", "float8,float4", "float4,float4"))(_test)
for _type in ("float4", "float8"):
    function(f"-({_type})")(lambda value: -value)
    function(f"+({_type})")(lambda value: value)
    function(f"@({_type})", f"abs({_type})")(abs)
function("^(float8,float8)", *keys("power pow", "float8,float8"))(power)


def round_half_even(value: float) -> float:
    return value if math.isinf(value) or value != value else float(round(value))


def _whole(call: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: value if math.isinf(value) or value != value else math.copysign(float(call(value)), value)


function("round(float8)")(lambda v: math.copysign(round_half_even(v), v))
function(*keys("ceil ceiling", "float8"))(_whole(math.ceil))
function("floor(float8)")(_whole(math.floor))
function("trunc(float8)")(_whole(math.trunc))
function("sign(float8)")(lambda v: float((v > 0) - (v < 0)))  # of NaN: 0


@function("sqrt(float8)", "|/(float8)")
def _sqrt(value: float) -> float:
    if value < 0:
        raise OrbitError("cannot take square root of a negative number", sqlstate="2201F")
    return math.sqrt(value)


@function("exp(float8)")
def _exp(value: float) -> float:
    try:
        result = math.exp(value)
    except OverflowError:
        raise _overflow() from None
    if result == 0 and not math.isinf(value):
        raise _underflow()
    return result


def log_domain(value: Any) -> None:
    if value == 0:
        raise OrbitError("cannot take logarithm of zero", sqlstate="2201E")
    if value < 0:
        raise OrbitError("cannot take logarithm of a negative number", sqlstate="2201E")


@function("ln(float8)")
def _ln(value: float) -> float:
    log_domain(value)
    return math.log(value)


@function("log(float8)", "log10(float8)")
def _log10(value: float) -> float:
    log_domain(value)
    return math.log10(value)


@function("cbrt(float8)")
def _cbrt(value: float) -> float:
    root: float = math.cbrt(value)
    return root


def _guarded(call: Callable[..., float]) -> Callable[..., float]:
    def run(*args: float) -> float:
        try:
            return call(*args)
        except ValueError:
            raise OrbitError("input is out of range", sqlstate="22003") from None
        except OverflowError:
            raise _overflow() from None

    return run


for _name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "degrees", "radians"):
    function(f"{_name}(float8)")(_guarded(getattr(math, _name)))
function("cot(float8)")(_guarded(lambda v: 1.0 / math.tan(v)))
function("atan2(float8,float8)")(_guarded(math.atan2))
function("pi()")(lambda: math.pi)
function("random()", context=True)(lambda context: context.random())


@function("width_bucket(float8,float8,float8,int4)", "width_bucket(numeric,numeric,numeric,int4)")
def _width_bucket(value: Any, low: Any, high: Any, count: int) -> int:
    if count <= 0:
        raise OrbitError("count must be greater than zero", sqlstate="2201G")
    if low == high:
        raise OrbitError("lower bound cannot equal upper bound", sqlstate="2201G")
    if low < high:
        if value < low:
            return 0
        return count + 1 if value >= high else int((value - low) * count / (high - low)) + 1
    if value > low:
        return 0
    return count + 1 if value <= high else int((low - value) * count / (low - high)) + 1
