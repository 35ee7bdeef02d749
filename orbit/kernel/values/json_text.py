"""Text of json and jsonb, as PostgreSQL 15 reads and prints them.

Owns validation (json keeps its text as given) and the canonical text of jsonb: keys sorted by length then bytes,
the last of equal keys kept, one space after ':' and ',', numbers exact. The happy path is the standard library's
C scanner; only a document that it refuses is scanned again, slowly, to name what PostgreSQL names.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

from orbit.kernel.errors import InvalidValue, OrbitError
from orbit.kernel.values.numbers import format_numeric, parse_numeric


class _Number(str):
    """A number as its canonical text, so that no digit is lost."""

    __slots__ = ()


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


_validate = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse_constant).decode


def _canonical_number(text: str) -> _Number:
    return _Number(format_numeric(parse_numeric(text)).decode())


_load = json.JSONDecoder(
    parse_float=_canonical_number, parse_int=_canonical_number, parse_constant=_refuse_constant
).decode


def parse_json(text: str) -> str:
    """Return the text as given. Raises InvalidValue 22P02 with PostgreSQL's detail."""
    try:
        _validate(text)
    except ValueError:
        raise _diagnose(text) from None
    except RecursionError:
        raise _too_deep() from None
    return text


def parse_jsonb(text: str) -> str:
    r"""Return the canonical text. Raises InvalidValue 22P02, or 22P05 for \u0000."""
    try:
        value = _load(text)
        canonical = _dump(value)
    except ValueError:
        raise _diagnose(text) from None
    except RecursionError:
        raise _too_deep() from None
    if "\\u" in text:
        _check_escapes(text)
    return canonical


def canonical_jsonb(value: Any) -> str:
    """Return the jsonb text of plain Python data: dict with str keys, list, str, bool, None, int, Decimal, float."""
    return _dump(value)


def _key_order(item: tuple[str, Any]) -> tuple[int, bytes]:
    key = item[0].encode()
    return len(key), key


def _dump(value: Any) -> str:
    kind = type(value)
    if kind is _Number:
        return str(value)
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        items = sorted(value.items(), key=_key_order) if len(value) > 1 else value.items()
        return "{" + ", ".join([f"{encode_basestring(key)}: {_dump(item)}" for key, item in items]) + "}"
    if kind is list:
        return "[" + ", ".join([_dump(item) for item in value]) + "]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    return format_numeric(value if kind is Decimal else Decimal(str(value))).decode()


def _too_deep() -> OrbitError:
    return OrbitError(
        "stack depth limit exceeded",
        sqlstate="54001",
        hint="the document is nested too deeply",
    )


# -- the refused document -----------------------------------------------------------------------------------

_UNICODE_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


_BAD_SYNTAX = "invalid input syntax for type json"


SHOWN_CHARACTERS = 50
"""How much of the line up to the offence an error's context shows."""


def _context(text: str, end: int) -> str:
    """Return PostgreSQL's context of an error whose offending token ends at `end`."""
    line_start = text.rfind("\n", 0, end) + 1
    start = max(line_start, end - SHOWN_CHARACTERS + 1)
    if start - line_start <= 3:
        start = line_start
    before = "..." if start > line_start else ""
    after = "..." if text[end : end + 1] not in ("", "\n", "\r") else ""
    return f"JSON data, line {text.count(chr(10), 0, end) + 1}: {before}{text[start:end]}{after}"


def _bad_json(detail: str, message: str = _BAD_SYNTAX, sqlstate: str = "22P02") -> InvalidValue:
    return InvalidValue(message, sqlstate=sqlstate, detail=detail)


def _check_escapes(text: str) -> None:
    """Raise for the escapes that jsonb cannot hold: NUL and half a surrogate pair."""
    high_end = -1
    for match in _UNICODE_ESCAPE.finditer(text):
        code = int(match[1], 16) if match[1] else 0x20
        follows_high = high_end == match.start()
        if high_end >= 0 and not (follows_high and 0xDC00 <= code <= 0xDFFF):
            if follows_high and 0xD800 <= code <= 0xDBFF:
                raise _bad_json("Unicode high surrogate must not follow a high surrogate.")
            raise _bad_json("Unicode low surrogate must follow a high surrogate.")
        if high_end < 0 and 0xDC00 <= code <= 0xDFFF:
            raise _bad_json("Unicode low surrogate must follow a high surrogate.")
        if match[1] and code == 0:
            raise _bad_json("\\u0000 cannot be converted to text.", "unsupported Unicode escape sequence", "22P05")
        high_end = match.end() if 0xD800 <= code <= 0xDBFF else -1
    if high_end >= 0:
        raise _bad_json("Unicode low surrogate must follow a high surrogate.")


_TOKEN = re.compile(
    r"""[ \t\n\r]*(?:
        (?P<punctuation>[{}\[\],:])
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")
      | (?P<bad_string>")
      | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![A-Za-z0-9_$\u0080-\U0010ffff.]))
      | (?P<bad_number>(?=[-0-9])-?(?:0|[1-9][0-9]*)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]*)?[A-Za-z0-9_$\u0080-\U0010ffff]*)
      | (?P<word>[A-Za-z0-9_$\u0080-\U0010ffff]+)
      | (?P<other>.)
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)

# What is expected -> how PostgreSQL says that something else was found.
_EXPECTED = {
    "value": "Expected JSON value",
    "first element": "Expected JSON value",
    "after element": 'Expected "," or "]"',
    "first key": 'Expected string or "}"',
    "key": "Expected string",
    "colon": 'Expected ":"',
    "after member": 'Expected "," or "}"',
    "end": "Expected end of input",
}


def _diagnose(text: str) -> InvalidValue:
    """Return the error that PostgreSQL reports for the first offence in a malformed document."""
    error, end = _find_offence(text)
    error.context = _context(text, end)
    return error


def _find_offence(text: str) -> tuple[InvalidValue, int]:
    """Return the error, and where the offending token ends."""
    stack: list[str] = []
    expected = "value"
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        assert match is not None
        kind = match.lastgroup
        token = match[kind] if kind else ""
        at = match.end()
        if kind == "end":
            if expected == "end":  # well-formed after all: a number that numeric cannot hold
                return InvalidValue("value overflows numeric format", sqlstate="22003"), at
            return _bad_json("The input string ended unexpectedly."), at
        if kind == "bad_string":
            return _diagnose_string(text, at)
        if kind in ("other", "bad_number") or (kind == "word" and token not in ("true", "false", "null")):
            return _bad_json(f'Token "{token}" is invalid.'), at
        after = _step(expected, token, kind or "", stack)
        if after is None:
            return _bad_json(f'{_EXPECTED[expected]}, but found "{token}".'), at
        expected = after


def _step(expected: str, token: str, kind: str, stack: list[str]) -> str | None:
    """Return what is expected after `token`, or None if it is not allowed here."""
    if token in ("]", "}"):
        closes = {"first element": "]", "after element": "]", "first key": "}", "after member": "}"}.get(expected)
        if closes != token:
            return None
        stack.pop()
    elif expected == "colon":
        return "value" if token == ":" else None
    elif expected in ("first key", "key"):
        return "colon" if kind == "string" else None
    elif expected in ("after element", "after member"):
        if token != ",":
            return None
        return "value" if expected == "after element" else "key"
    elif expected == "end":
        return None
    elif token in ("[", "{"):
        stack.append(token)
        return "first element" if token == "[" else "first key"
    elif token in (",", ":"):
        return None
    if not stack:
        return "end"
    return "after element" if stack[-1] == "[" else "after member"


def _diagnose_string(text: str, at: int) -> tuple[InvalidValue, int]:
    """Return the error of the malformed string whose first character is at `at`; `at - 1` holds the quote."""
    start = at - 1
    while at < len(text):
        character = text[at]
        if ord(character) < 0x20:
            return _bad_json(f"Character with value 0x{ord(character):02x} must be escaped."), at
        if character != "\\":
            at += 1
            continue
        escape = text[at + 1 : at + 2]
        if not escape:
            break
        if escape == "u":
            digits = text[at + 2 : at + 6]
            if digits.strip("0123456789abcdefABCDEF"):
                return _bad_json('"\\u" must be followed by four hexadecimal digits.'), at + 2 + len(digits)
            if len(digits) < 4:
                break
            at += 6
        elif escape in '"\\/bfnrt':
            at += 2
        else:
            return _bad_json(f'Escape sequence "\\{escape}" is invalid.'), at + 2
    return _bad_json(f'Token "{text[start:]}" is invalid.'), len(text)
