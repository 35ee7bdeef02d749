"""COPY's text and CSV formats read exactly as PostgreSQL 15 reads them: every form, every error, any speed.

Owns the cutting of input into whole rows, and the reading of a block of rows into fields and values. `copy_parse`
reads what is plain by a faster way and comes here for the rest; errors are always found here, with the line and
column that PostgreSQL names in its CONTEXT.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import SqlType
from orbit.kernel.values import parse_text
from orbit.kernel.values.strings import bad_encoding
from services.storage.client import CopyFormat

SHOWN_CHARACTERS = 100
"""Longer values are cut in CONTEXT."""

Field = str | None
_ESCAPED = re.compile(r"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{1,2})|(.?))", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class CopyDataError(OrbitError):
    """Input that COPY cannot read. `line` counts from 1 within the block that was parsed."""

    default_sqlstate = "22P04"

    line: int = 0
    place: str = ""
    """What CONTEXT says behind the line: ', column b: "x"' or ': "the line"'."""

    @classmethod
    def at(cls, error: OrbitError, line: int, place: str) -> CopyDataError:
        """Return another error with its place in the input."""
        placed = cls(error.message, sqlstate=error.sqlstate, detail=error.detail, hint=error.hint)
        placed.line, placed.place = line, place
        return placed

    def located(self, table: str, lines_before: int) -> CopyDataError:
        """Return the error with the CONTEXT of the whole input."""
        if self.line:
            self.context = f"COPY {table}, line {lines_before + self.line}{self.place}"
        return self


@dataclass(frozen=True)
class CopySpec:
    """A COPY's format with what depends on it alone, made once."""

    copy: CopyFormat
    zone: tzinfo
    csv: bool = field(init=False)
    types: tuple[SqlType, ...] = field(init=False)
    names: tuple[str, ...] = field(init=False)
    parsers: tuple[Callable[[str], Any], ...] = field(init=False)

    def __post_init__(self) -> None:
        columns = self.copy.columns
        object.__setattr__(self, "csv", self.copy.format == "csv")
        object.__setattr__(self, "types", tuple(column.type for column in columns))
        object.__setattr__(self, "names", tuple(column.name for column in columns))
        parsers = tuple(parse_text(column.type.oid, column.type.modifier, self.zone) for column in columns)
        object.__setattr__(self, "parsers", parsers)


# -- cutting ------------------------------------------------------------------------------------------------


def cut(data: bytes, spec: CopySpec) -> int:
    """Return the length of the whole rows at the beginning of `data`: it ends behind a newline that ends a row."""
    end = data.rfind(b"\n") + 1
    if not spec.csv:
        while end and _ends_in_backslash(data, end - 1):
            end = data.rfind(b"\n", 0, end - 1) + 1
        return end
    quote, escape = spec.copy.quote.encode(), spec.copy.escape.encode()
    if quote not in data:
        return end
    if quote != escape:
        return _cut_escaped(data, spec)
    # A newline ends a row when the quotes before it are even in number: doubled quotes change nothing.
    quotes = data.count(quote, 0, end)
    while end and quotes % 2:
        earlier = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(quote, earlier, end)
        end = earlier
    return end


def _ends_in_backslash(data: bytes, end: int) -> bool:
    """Whether the byte at `end` is escaped: an odd number of backslashes stands before it."""
    at = end
    while at and data[at - 1] == 0x5C:
        at -= 1
    return (end - at) % 2 == 1


def _cut_escaped(data: bytes, spec: CopySpec) -> int:
    text = data.decode("latin-1")
    end = at = 0
    fields = _csv_field(spec)
    while (match := fields.match(text, at)) is not None and match.end() < len(text):
        at = match.end()
        if text[at] == spec.copy.quote:
            break  # a quoted field that is still open
        if text[at] == "\n":
            end = at + 1
        at += 1
    return end


# -- rows to fields -----------------------------------------------------------------------------------------


def _text_rows(text: str, spec: CopySpec) -> Iterator[tuple[str, list[Field], int]]:
    """Yield (line, fields, lines that it spans) of the text format; ends at the end-of-data marker."""
    delimiter, null = spec.copy.delimiter, spec.copy.null
    at, size = 0, len(text)
    splitter = re.compile(rf"(?:[^{re.escape(delimiter)}\\\n]|\\.)*+", re.DOTALL)
    while at < size:
        start = at
        raw: list[str] = []
        while True:
            match = splitter.match(text, at)
            assert match is not None
            at = match.end()
            if text[at : at + 1] == "\\":  # a backslash as the very last character
                at += 1
            raw.append(text[match.start() : at])
            if at >= size or text[at] == "\n":
                break
            at += 1
        line = text[start:at]
        at += 1
        if line == "\\.":
            return
        fields = [None if value == null else unescape(value) if "\\" in value else value for value in raw]
        yield line, fields, 1 + line.count("\n")


def unescape(value: str) -> str:
    return _ESCAPED.sub(_escaped, value)


def _escaped(match: re.Match[str]) -> str:
    octal, hexadecimal, other = match.groups()
    if octal:
        return chr(int(octal, 8) & 0xFF)
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    return _ESCAPES.get(other, other or "\\")


def _csv_field(spec: CopySpec) -> re.Pattern[str]:
    delimiter, quote, escape = (re.escape(mark) for mark in (spec.copy.delimiter, spec.copy.quote, spec.copy.escape))
    inside = rf"(?:{escape}[{escape}{quote}]|[^{quote}])*+"
    if escape == quote:
        inside = rf"(?:{quote}{quote}|[^{quote}])*+"
    return re.compile(rf"(?:[^{delimiter}{quote}\n]|{quote}{inside}{quote})*+", re.DOTALL)


def _csv_rows(text: str, spec: CopySpec) -> Iterator[tuple[str, list[Field], int]]:
    """Yield (line, fields, lines that it spans) of the CSV format; ends at the end-of-data marker."""
    delimiter, quote, escape, null = spec.copy.delimiter, spec.copy.quote, spec.copy.escape, spec.copy.null
    pattern = _csv_field(spec)
    q, e = re.escape(quote), re.escape(escape)
    section = re.compile(rf"{q}((?:{e}[{e}{q}]|[^{q}])*+){q}", re.DOTALL)
    doubled = re.compile(rf"{e}([{e}{q}])")
    at, size, line_number = 0, len(text), 1
    while at < size:
        start = at
        fields: list[Field] = []
        while True:
            match = pattern.match(text, at)
            assert match is not None
            value, at = match[0], match.end()
            if at < size and text[at] == quote:
                error = CopyDataError("unterminated CSV quoted field")
                # PostgreSQL finds out at the end of the input.
                raise CopyDataError.at(error, line_number + text[start:].rstrip("\n").count("\n"), _shown(text[start:]))
            if quote in value:
                fields.append(section.sub(lambda m: doubled.sub(r"\1", m[1]), value))
            else:
                fields.append(None if value == null else value)
            if at >= size or text[at] != delimiter:
                break
            at += 1
        line = text[start:at]
        at += 1
        if line == "\\.":
            return
        spans = 1 + line.count("\n")
        yield line, fields, spans
        line_number += spans


# -- fields to values ---------------------------------------------------------------------------------------


def _shown(text: str) -> str:
    text = text.rstrip("\n")
    return f': "{text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."}"'


def _decode(data: bytes, spec: CopySpec) -> str:
    """Return the block as text with newlines of one kind. Raises CopyDataError 22021 and 22P04."""
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise CopyDataError.at(bad_encoding(data), data.count(b"\n", 0, problem.start) + 1, "") from None
    if "\0" in text:
        raise CopyDataError.at(bad_encoding(b"\0"), text.count("\n", 0, text.index("\0")) + 1, "")
    if "\r" not in text:
        return text
    newlines = text.count("\n")
    if text.count("\r\n") == newlines and (newlines or not text.endswith("\r")):
        text = text.replace("\r\n", "\n")
    stray = text.find("\r")
    if stray >= 0 and not (spec.csv and text.count(spec.copy.quote, 0, stray) % 2):
        what, where = ("unquoted", "quoted CSV field") if spec.csv else ("literal", '"\\r"')
        error = CopyDataError(
            f"{what} carriage return found in data", hint=f"Use {where} to represent carriage return."
        )
        raise CopyDataError.at(error, text.count("\n", 0, stray) + 1, "")
    return text


def read_rows(data: bytes, spec: CopySpec, skip_header: bool) -> tuple[list[list[Any]], int]:
    """Return the columns' values (in the engine's row form) and the number of lines. Raises CopyDataError."""
    width = len(spec.names)
    columns: list[list[Any]] = [[] for _ in range(width)]
    rows = (_csv_rows if spec.csv else _text_rows)(_decode(data, spec), spec)
    number = 0
    for line, fields, spans in rows:
        number += spans
        if skip_header:
            skip_header = False
            continue
        if len(fields) < width:
            error = CopyDataError(f'missing data for column "{spec.names[len(fields)]}"')
            raise CopyDataError.at(error, number, _shown(line))
        if len(fields) > width:
            raise CopyDataError.at(CopyDataError("extra data after last expected column"), number, _shown(line))
        for values, parse, value, name in zip(columns, spec.parsers, fields, spec.names, strict=True):
            if value is None:
                values.append(None)
                continue
            try:
                values.append(parse(value))
            except OrbitError as problem:
                raise CopyDataError.at(problem, number, f", column {name}{_shown(value)}") from None
    return columns, number
