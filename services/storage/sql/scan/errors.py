"""DuckDB's errors as SQLSTATEs. What has no mapping is a defect of ours: XX000, logged with the whole text."""

from __future__ import annotations

import re
from typing import Final

import structlog

from orbit.kernel.errors import OrbitError, QueryCanceled

log = structlog.get_logger()

RAISED: Final = "ORBIT:"
"""Prefix of the errors that generated SQL raises by itself: ORBIT:sqlstate:message."""

_INTEGERS: Final = {
    "INT16": "smallint", "INT32": "integer", "INT64": "bigint",
    "SMALLINT": "smallint", "INTEGER": "integer", "BIGINT": "bigint", "FLOAT": "real", "DOUBLE": "double precision",
}  # fmt: skip
_RAISED: Final = re.compile(rf"{RAISED}(\w{{5}}):([^\n]*)")
_CAST_RANGE: Final = re.compile(r"can't be cast because the value is out of range for the destination type (\w+)")
_OVERFLOW: Final = re.compile(r"Overflow in \w+ of (\w+)")
_DECIMAL: Final = re.compile(r"DECIMAL|HUGEINT|Needed scale|Could not cast value .* to DECIMAL|INT128", re.IGNORECASE)


class DecimalTooSmall(Exception):
    """A numeric left DuckDB's 38 digits: the query must run again with numerics as text."""


def translate(error: Exception) -> OrbitError | DecimalTooSmall:
    """Return the client's error for what DuckDB raised, itself or through Arrow's reader of its result.

    The kind of an error is the start of its text: Arrow wraps DuckDB's errors in its own classes.
    """
    text = str(error)
    kind = text.partition(" Error:")[0].rpartition("\n")[2].rpartition(": ")[2]
    raised = _RAISED.search(text)
    if raised is not None:
        return OrbitError(raised[2], sqlstate=raised[1])
    if kind == "INTERRUPT":
        return QueryCanceled("canceling statement due to user request")
    if kind == "Out of Memory":
        return OrbitError("out of memory", sqlstate="53200", detail="The query needs more than the memory limit.")
    if "Division by zero" in text or "division by zero" in text:
        return OrbitError("division by zero", sqlstate="22012")
    if "More than one row returned by a subquery" in text:
        return OrbitError("more than one row returned by a subquery used as an expression", sqlstate="21000")
    found = _CAST_RANGE.search(text)
    if found is not None and found[1] in _INTEGERS:
        return OrbitError(f"{_INTEGERS[found[1]]} out of range", sqlstate="22003")
    overflow = _OVERFLOW.search(text)
    if overflow is not None and overflow[1] in _INTEGERS:
        return OrbitError(f"{_INTEGERS[overflow[1]]} out of range", sqlstate="22003")
    if kind in ("Out of Range", "Conversion", "Binder") and _DECIMAL.search(text):
        return DecimalTooSmall(text)
    if kind in ("Out of Range", "Conversion"):
        if "LIKE pattern must not end with escape" in text or "Like pattern must not end with escape" in text:
            return OrbitError("LIKE pattern must not end with escape character", sqlstate="22025")
        if re.search(r"date|timestamp|interval", text, re.IGNORECASE):
            what = "interval" if "interval" in text.lower() else "timestamp" if "timestamp" in text.lower() else "date"
            return OrbitError(f"{what} out of range", sqlstate="22008")
        log.error("unmapped error of the scan executor", error=text)
        return OrbitError("value out of range", sqlstate="22003")
    if kind == "IO" and "No space left" in text:
        return OrbitError("could not write a temporary file: no space left on device", sqlstate="53100")
    log.error("unmapped error of the scan executor", error=text)
    return OrbitError("the scan executor refused the query", sqlstate="XX000", detail=text.split("\n", maxsplit=1)[0])
