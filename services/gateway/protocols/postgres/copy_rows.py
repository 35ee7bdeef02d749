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

SHOWN_BYTES = 100
"""Longer values are cut in CONTEXT."""

Field = str | None
_NEWLINE = re.compile(rb"\r\n|\r|\n")
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
        placed = cls(
            error.message, sqlstate=error.sqlstate, detail=error.detail, hint=error.hint, context=error.context
        )
        placed.line, placed.place = line, place
        return placed

    def located(self, table: str, lines_before: int) -> CopyDataError:
        """Return the error with the CONTEXT of the whole input."""
        if self.line:
            inner = "" if self.context is None else self.context + "\n"
            self.context = f"{inner}COPY {table}, line {lines_before + self.line}{self.place}"
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
    field_pattern: re.Pattern[str] = field(init=False)
    """Matches one raw field; ends at a delimiter, a newline, or what must not be there."""
    unquote: Callable[[str], str] = field(init=False)
    """Resolves the quotes of a raw CSV field."""

    def __post_init__(self) -> None:
        columns = self.copy.columns
        object.__setattr__(self, "csv", self.copy.format == "csv")
        object.__setattr__(self, "types", tuple(column.type for column in columns))
        object.__setattr__(self, "names", tuple(column.name for column in columns))
        parsers = tuple(parse_text(column.type.oid, column.type.modifier, self.zone) for column in columns)
        object.__setattr__(self, "parsers", parsers)
        object.__setattr__(self, "field_pattern", _csv_field(self.copy) if self.csv else _text_field(self.copy))
        object.__setattr__(self, "unquote", _unquoter(self.copy))


def _text_field(copy: CopyFormat) -> re.Pattern[str]:
    return re.compile(rf"(?:[^{re.escape(copy.delimiter)}\\\r\n]|\\[^.])*+", re.DOTALL)


def _quoted(copy: CopyFormat) -> tuple[str, str, str]:
    """Return patterns of (a quote, an escape, what is between quotes)."""
    quote, escape = re.escape(copy.quote), re.escape(copy.escape)
    if copy.escape == copy.quote:
        return quote, escape, rf"(?:{quote}{quote}|[^{quote}])*+"
    return quote, escape, rf"(?:{escape}[{escape}{quote}]|[^{quote}])*+"


def _csv_field(copy: CopyFormat) -> re.Pattern[str]:
    quote, _, inside = _quoted(copy)
    return re.compile(rf"(?:[^{re.escape(copy.delimiter)}{quote}\r\n]|{quote}{inside}{quote})*+", re.DOTALL)


def _unquoter(copy: CopyFormat) -> Callable[[str], str]:
    quote, escape, inside = _quoted(copy)
    section = re.compile(rf"{quote}({inside}){quote}", re.DOTALL)
    escaped = re.compile(rf"{escape}([{escape}{quote}])")

    def unquote(value: str) -> str:
        return section.sub(lambda part: escaped.sub(r"\1", part[1]), value)

    return unquote


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
    while (match := spec.field_pattern.match(text, at)) is not None and match.end() < len(text):
        at = match.end()
        if text[at] == spec.copy.quote:
            break  # a quoted field that is still open
        if text[at] == "\n":
            end = at + 1
        at += 1
    return end


# -- rows to fields -----------------------------------------------------------------------------------------

Row = tuple[str, list[Field]]
"""(the line as it came, its fields)"""


def newline_of(data: bytes, spec: CopySpec) -> str:
    """Return how the input's first line ends: all others must end so too."""
    quote = spec.copy.quote.encode()
    for match in _NEWLINE.finditer(data):
        if spec.csv and data.count(quote, 0, match.start()) % 2:
            continue  # inside quotes: data
        return match[0].decode()
    return "\n"


class _Reader:
    """Reads a block's rows. `line` is the number of the line that was read last, from 1."""

    def __init__(self, text: str, spec: CopySpec, newline: str) -> None:
        self.text = text
        self.spec = spec
        self.newline = newline
        self.line = 0
        self.ended = False
        """Whether the end-of-data marker was met: nothing behind it counts."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows. Raises CopyDataError."""
        split = self._split_csv if self.spec.csv else self._split_text
        at, size = 0, len(self.text)
        ended = False
        while at < size and not ended:
            start = at
            self.line += 1
            raw, at, ended = split(at)
            self.ended = ended
            if ended and at == start:
                return
            line = self.text[start:at]
            embedded = line.count("\n")
            if at < size and not ended:
                if not self.text.startswith(self.newline, at):
                    raise self._stray_newline(self.text[at], embedded)
                at += len(self.newline)
            self.line += embedded
            yield line, self._csv_fields(raw, line) if self.spec.csv else self._text_fields(raw)

    def _stray_newline(self, found: str, embedded: int) -> CopyDataError:
        csv = self.spec.csv
        name, mark = ("carriage return", "\\r") if found == "\r" else ("newline", "\\n")
        how = "quoted CSV field" if csv else f'"{mark}"'
        error = CopyDataError(
            f"{'unquoted' if csv else 'literal'} {name} found in data", hint=f"Use {how} to represent {name}."
        )
        return CopyDataError.at(error, self.line + embedded, "")

    def _split_text(self, at: int) -> tuple[list[str], int, bool]:
        """Return the raw fields of the line at `at`, where it ends, and whether the end-of-data marker stands there."""
        text, delimiter, match_field = self.text, self.spec.copy.delimiter, self.spec.field_pattern.match
        raw: list[str] = []
        while True:
            match = match_field(text, at)
            assert match is not None
            at = match.end()
            ended = text.startswith("\\.", at)
            if ended and not text.startswith(self.newline, at + 2):
                raise CopyDataError.at(CopyDataError("end-of-copy marker corrupt"), self.line, "")
            if not ended and text[at : at + 1] == "\\":  # a backslash as the very last character
                at += 1
            raw.append(text[match.start() : at])
            if ended or text[at : at + 1] != delimiter:
                return raw, at, ended
            at += 1

    def _text_fields(self, raw: list[str]) -> list[Field]:
        null = self.spec.copy.null
        return [None if value == null else unescape(value) if "\\" in value else value for value in raw]

    def _split_csv(self, at: int) -> tuple[list[str], int, bool]:
        text, copy, match_field = self.text, self.spec.copy, self.spec.field_pattern.match
        if text.startswith("\\." + self.newline, at):
            return [], at, True
        raw: list[str] = []
        while True:
            match = match_field(text, at)
            assert match is not None
            at = match.end()
            if text[at : at + 1] == copy.quote:  # PostgreSQL finds out at the end of the input
                rest = text[match.start() - sum(len(value) + 1 for value in raw) :]
                error = CopyDataError("unterminated CSV quoted field")
                raise CopyDataError.at(error, self.line + rest.count("\n"), _shown(rest))
            raw.append(match[0])
            if text[at : at + 1] != copy.delimiter:
                return raw, at, False
            at += 1

    def _csv_fields(self, raw: list[str], line: str) -> list[Field]:
        copy = self.spec.copy
        if copy.quote not in line:
            return [None if value == copy.null else value for value in raw]
        unquote = self.spec.unquote
        return [unquote(value) if copy.quote in value else None if value == copy.null else value for value in raw]


def unescape(value: str) -> str:
    """Resolve the backslashes of a field of the text format."""
    return _ESCAPED.sub(_escaped, value)


def _escaped(match: re.Match[str]) -> str:
    octal, hexadecimal, other = match.groups()
    if octal:
        return chr(int(octal, 8) & 0xFF)
    if hexadecimal:
        return chr(int(hexadecimal, 16))
    return _ESCAPES.get(other, other)  # a backslash at the very end is dropped


# -- fields to values ---------------------------------------------------------------------------------------


def _shown(text: str) -> str:
    if len(text) > SHOWN_BYTES // 4 and len(data := text.encode()) > SHOWN_BYTES:
        text = data[:SHOWN_BYTES].decode(errors="ignore") + "..."
    return f': "{text}"'


def _decode(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise CopyDataError.at(bad_encoding(data), data.count(b"\n", 0, problem.start) + 1, "") from None
    if "\0" in text:
        raise CopyDataError.at(bad_encoding(b"\0"), text.count("\n", 0, text.index("\0")) + 1, "")
    return text


@dataclass(frozen=True, slots=True)
class Block:
    """A block that was read: values by column in the engine's row form."""

    columns: list[list[Any]]
    lines: int
    ended: bool
    """Whether the end-of-data marker was met."""


def read_rows(data: bytes, spec: CopySpec, newline: str, skip_header: bool) -> Block:
    """Return the block's values. Raises CopyDataError."""
    width = len(spec.names)
    columns: list[list[Any]] = [[] for _ in range(width)]
    reader = _Reader(_decode(data), spec, newline)
    for line, fields in reader.rows():
        if skip_header:
            skip_header = False
            continue
        if len(fields) > width:
            raise CopyDataError.at(CopyDataError("extra data after last expected column"), reader.line, _shown(line))
        for values, parse, value, name in zip(columns, spec.parsers, fields, spec.names, strict=False):
            if value is None:
                values.append(None)
                continue
            try:
                values.append(parse(value))
            except OrbitError as problem:
                raise CopyDataError.at(problem, reader.line, f", column {name}{_shown(value)}") from None
        if len(fields) < width:
            error = CopyDataError(f'missing data for column "{spec.names[len(fields)]}"')
            raise CopyDataError.at(error, reader.line, _shown(line))
    return Block(columns, reader.line, reader.ended)
