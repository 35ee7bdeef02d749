"""What the extended protocol names: prepared statements and portals, and the commands that drop them by SQL.

Owns these nouns. Statements of the protocol live in the gateway, so that DEALLOCATE and DISCARD ALL, which name
them in SQL, are answered here as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.values.data_rows import result_formats
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.wire import ProtocolViolation
from services.storage.client import Statement


class Deallocate:
    """DEALLOCATE name, DEALLOCATE ALL or DISCARD ALL. As a statement it has no parameters and no columns."""

    __slots__ = ("discard", "name")

    parameter_oids: Sequence[int] = ()
    columns: None = None

    def __init__(self, name: str | None, discard: bool) -> None:
        self.name = name
        """None for all."""
        self.discard = discard

    @property
    def tag(self) -> str:
        return "DISCARD ALL" if self.discard else "DEALLOCATE ALL" if self.name is None else "DEALLOCATE"


_DEALLOCATE: Final = re.compile(
    r"""\s*(?:deallocate\s+(?:prepare\s+)?(?:(?P<all>all)|"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[a-z_\x80-\uffff][\w$]*))
        |(?P<discard>discard\s+all))\s*;?\s*""",
    re.IGNORECASE | re.VERBOSE,
).fullmatch


def deallocation(sql: str) -> Deallocate | None:
    """Return the command that the query is, if it is one and alone."""
    if sql[:1] not in "dD \t\n":
        return None
    match = _DEALLOCATE(sql)
    if match is None:
        return None
    if match["quoted"]:
        return Deallocate(match["quoted"].replace('""', '"'), False)
    return Deallocate(match["plain"].lower() if match["plain"] else None, match["discard"] is not None)


USUAL_FORMATS: Final = frozenset(((), (0,), (1,)))
"""Bind's lists of formats that fit any statement."""


class Prepared:
    """A named statement. `statement` is the session's, or None for an empty query."""

    __slots__ = ("_row_descriptions", "columns", "name", "parameter_count", "parameter_oids", "runs", "statement")

    def __init__(self, name: bytes, statement: Statement | Deallocate | None) -> None:
        self.name = name
        self.statement = statement
        self.runs = statement is not None and not isinstance(statement, Deallocate)
        """Whether the session runs it; otherwise it is answered here."""
        self.parameter_oids: Sequence[int] = () if statement is None else statement.parameter_oids
        self.parameter_count = len(self.parameter_oids)
        self.columns = None if statement is None else statement.columns
        self._row_descriptions: dict[tuple[int, ...], bytes] = {}

    def describe_rows(self, formats: tuple[int, ...]) -> bytes:
        """Return the RowDescription (or NoData) for a result in these formats."""
        description = self._row_descriptions.get(formats)
        if description is None:
            description = wire.NO_DATA
            if self.columns is not None:
                description = wire.row_description(self.columns, result_formats(formats, len(self.columns)))
            if len(self._row_descriptions) < 8:
                self._row_descriptions[formats] = description
        return description

    def check(self, parameters: Sequence[bytes | None], formats: Sequence[int], results: Sequence[int]) -> None:
        """Raise for a Bind that does not fit the statement."""
        name = self.name.decode(errors="replace")
        if len(parameters) != self.parameter_count:
            raise ProtocolViolation(
                f"bind message supplies {len(parameters)} parameters, "
                f'but prepared statement "{name}" requires {self.parameter_count}'
            )
        if len(formats) > 1 and len(formats) != len(parameters):
            raise ProtocolViolation(
                f"bind message has {len(formats)} parameter formats but {len(parameters)} parameters"
            )
        width = 0 if self.columns is None else len(self.columns)
        if len(results) > 1 and len(results) != width:
            raise ProtocolViolation(f"bind message has {len(results)} result formats but query has {width} columns")
        for code in (*formats, *results):
            if code not in (0, 1):
                raise NotSupported(f"unsupported format code: {code}", sqlstate="22023")


class Portal:
    """A bound statement, and what is left of its rows when the client fetches them in parts."""

    __slots__ = ("_at", "_rows", "formats", "held", "held_bytes", "parameters", "prepared", "results", "runs")

    def __init__(
        self,
        prepared: Prepared,
        parameters: Sequence[bytes | None],
        formats: tuple[int, ...],
        results: tuple[int, ...],
    ) -> None:
        self.prepared = prepared
        self.parameters = parameters
        self.formats = formats
        self.results = results
        self.runs = prepared.runs
        """Whether the next Execute goes to the session: the first one of a statement that does."""
        self.held: list[bytes] = []
        self.held_bytes = 0
        self._rows = b""
        self._at = 0

    def hold(self, messages: bytes) -> None:
        """Keep a part of the answer."""
        self.held.append(messages)
        self.held_bytes += len(messages)

    def fetch(self, maximum: int) -> bytes:
        """Return the next rows (all for 0), with PortalSuspended or CommandComplete behind them."""
        if self.held:
            self._rows, self._at = b"".join(self.held), 0
            self.held = []
        start = self._at
        end = wire.take_rows(self._rows, start, maximum or -1)
        self._at = end
        part = self._rows[start:end]
        if maximum and wire.count_rows(part) == maximum:
            return part + wire.PORTAL_SUSPENDED
        rest = self._rows[end:]
        if start and rest.startswith(b"C") and rest[5:].startswith(b"SELECT"):
            rest = wire.command_complete(f"SELECT {wire.count_rows(part)}")
        self._rows, self._at, self.held_bytes = b"", 0, 0
        return part + rest

    @property
    def suspended(self) -> bool:
        """Whether a part of the answer is still held."""
        return bool(self._rows)

    def again(self) -> bytes:
        """Return the answer to an Execute of a portal that has run to its end. Raises 55000 where that is an error."""
        if self.prepared.columns is not None:
            return wire.command_complete("SELECT 0")
        raise OrbitError("portal cannot be run again", sqlstate="55000")
