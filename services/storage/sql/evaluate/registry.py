"""Where the Python meaning of each signature is kept: key such as `round(numeric,int4)` to a callable.

A function takes the arguments' row values, none of them NULL when its signature is strict; with `context=True` it
takes the `EvaluationContext` first. Inline forms are Python source for the compiler, `{0}` the first argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

Call = TypeVar("Call", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Implementation:
    call: Callable[..., Any]
    context: bool = False


FUNCTIONS: Final[dict[str, Implementation]] = {}
INLINE: Final[dict[str, str]] = {}


def function(*keys: str, context: bool = False) -> Callable[[Call], Call]:
    """Register a function as the meaning of these signature keys."""

    def register(call: Call) -> Call:
        for key in keys:
            assert key not in FUNCTIONS, key
            FUNCTIONS[key] = Implementation(call, context)
        return call

    return register


def keys(names: str, *args: str) -> list[str]:
    """Return the keys of several names (`sin cos`) with each of the argument lists (`float8`, `int4,int4`)."""
    return [f"{name}({arg})" for name in names.split() for arg in args]
