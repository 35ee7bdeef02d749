"""The text by which numerics sort and compare inside scans."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.storage.sql.scan.python_functions import numeric_key

NUMBERS = st.decimals(
    allow_nan=False, allow_infinity=False, places=None, min_value=Decimal("-1e40"), max_value=Decimal("1e40")
)


@given(NUMBERS, NUMBERS)
def test_order_is_that_of_the_numbers(left: Decimal, right: Decimal) -> None:
    a, b = numeric_key(left), numeric_key(right)
    assert a is not None and b is not None
    assert (a.encode() < b.encode(), a == b) == (left < right, left == right)


def test_special_values_are_at_the_ends() -> None:
    ordered = ["-Infinity", "-12.5", "-12", "-0.001", "0", "0.001", "1", "1.10", "11", "Infinity", "NaN"]
    keys = [numeric_key(Decimal(text)) for text in ordered]
    assert keys == sorted(keys, key=lambda key: (key or "").encode())
    assert numeric_key(Decimal("1.10")) == numeric_key(Decimal("1.1"))
    assert numeric_key(None) is None
