"""Text of strings, byte strings and UUIDs, as PostgreSQL 15 reads and prints them.

Owns text, varchar(n), char(n), name, "char", bytea and uuid, and the way from wire bytes to str.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orbit.kernel.errors import InvalidValue
from orbit.kernel.values.numbers import bad_syntax

NAME_MAX_BYTES = 63


def bad_encoding(data: bytes) -> InvalidValue:
    """Return PostgreSQL's error (22021) for the first bytes of `data` that are not UTF-8, or NUL."""
    try:
        data.decode()
        shown = "0x00"
    except UnicodeDecodeError as error:
        # PostgreSQL shows as many bytes as the first one announces.
        length = 2 if data[error.start] & 0xE0 == 0xC0 else 3 if data[error.start] & 0xF0 == 0xE0 else 4
        length = length if data[error.start] & 0xC0 == 0xC0 and data[error.start] < 0xF8 else 1
        shown = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.start + length])
    return InvalidValue(f'invalid byte sequence for encoding "UTF8": {shown}', sqlstate="22021")


def decode_text(data: bytes) -> str:
    """Return a client's bytes as str. Raises InvalidValue 22021 for what is not UTF-8, or holds NUL."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise bad_encoding(data) from None
    if "\0" in text:
        raise bad_encoding(data)
    return text


def parse_string(text: str) -> str:
    return text


def format_string(value: str) -> bytes:
    return value.encode()


def _too_long(type_name: str) -> InvalidValue:
    return InvalidValue(f"value too long for type {type_name}", sqlstate="22001")


def varchar_parser(length: int) -> Callable[[str], str]:
    """Return the parser of varchar(length): spaces past the end are cut, anything else is 22001."""

    def parse(text: str) -> str:
        if len(text) <= length:
            return text
        if text[length:].strip(" "):
            raise _too_long(f"character varying({length})")
        return text[:length]

    return parse


def char_parser(length: int) -> Callable[[str], str]:
    """Return the parser of char(length): values are stored padded."""

    def parse(text: str) -> str:
        if len(text) <= length:
            return text.ljust(length)
        if text[length:].strip(" "):
            raise _too_long(f"character({length})")
        return text[:length]

    return parse


def parse_name(text: str) -> str:
    if len(text) * 4 <= NAME_MAX_BYTES:
        return text
    return text.encode()[:NAME_MAX_BYTES].decode(errors="ignore")


def parse_single_char(text: str) -> str:
    return text[:1]


# -- bytea --------------------------------------------------------------------------------------------------

_ESCAPE = re.compile(rb"\\(\\|[0-3][0-7][0-7])?")


def parse_bytea(text: str) -> bytes:
    r"""Take the hex form ('\x0a ff') and the escape form ('a\\b\012')."""
    if text.startswith("\\x"):
        try:
            digits = text[2:]
            if digits.isascii():
                return bytes.fromhex(digits)
        except ValueError:
            pass
        raise _bad_hex(text[2:])
    data = text.encode()
    if b"\\" not in data:
        return data

    def unescape(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code is None:
            raise InvalidValue("invalid input syntax for type bytea")
        return b"\\" if code == b"\\" else bytes((int(code, 8),))

    return _ESCAPE.sub(unescape, data)


def _bad_hex(digits: str) -> InvalidValue:
    pair = ""
    for character in digits:
        if not pair and character in " \t\n\r":
            continue
        if character not in "0123456789abcdefABCDEF":
            return InvalidValue(f'invalid hexadecimal digit: "{character}"', sqlstate="22023")
        pair = "" if pair else character
    return InvalidValue("invalid hexadecimal data: odd number of digits", sqlstate="22023")


def format_bytea(value: bytes) -> bytes:
    return b"\\x" + value.hex().encode()


# -- uuid ---------------------------------------------------------------------------------------------------

_is_canonical = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_is_uuid = re.compile(r"(\{)?([0-9a-fA-F]{4}(?:-?[0-9a-fA-F]{4}){7})(?(1)\}|)").fullmatch


def parse_uuid(text: str) -> str:
    """Return the canonical text: lower case, five groups."""
    if _is_canonical(text):
        return text
    match = _is_uuid(text)
    if match is None:
        raise bad_syntax("uuid", text)
    return uuid_text(match[2].replace("-", "").lower())


def uuid_text(digits: str) -> str:
    """Return 32 hex digits as a canonical UUID."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
