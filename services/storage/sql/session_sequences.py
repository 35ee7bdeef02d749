"""nextval, currval and lastval as one session sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Sequence

if TYPE_CHECKING:
    from services.storage.session import StorageSession


class SessionSequences:
    """Implements the evaluator's `Sequences` over the leader's values.

    A statement that runs again from the top, after it had to wait, draws the same values again.
    """

    __slots__ = ("_at", "_drawn", "_last", "_session", "_values")

    def __init__(self, session: StorageSession) -> None:
        self._session = session
        self._values: dict[int, int] = {}
        self._last: int | None = None
        self._drawn: list[tuple[int, int]] = []
        """(sequence, value) that the current statement has drawn, in order."""
        self._at = 0

    @property
    def drawn(self) -> int:
        """How many values the current statement has drawn so far."""
        return len(self._drawn)

    def start(self, again: bool) -> None:
        """A statement starts, or starts again."""
        self._at = 0
        if not again:
            self._drawn.clear()

    def nextval(self, sequence: int) -> int:
        session = self._session
        found = self._find(sequence)
        if self._at < len(self._drawn) and self._drawn[self._at][0] == sequence:
            value = self._drawn[self._at][1]
        else:
            del self._drawn[self._at :]
            value = session.engine.sequences.next(found, session.transaction)
            self._drawn.append((sequence, value))
        self._at += 1
        self._values[sequence] = self._last = value
        return value

    def currval(self, sequence: int) -> int:
        found = self._find(sequence)
        if sequence not in self._values:
            raise OrbitError(f'currval of sequence "{found.name}" is not yet defined in this session', sqlstate="55000")
        return self._values[sequence]

    def lastval(self) -> int:
        if self._last is None:
            raise OrbitError("lastval is not yet defined in this session", sqlstate="55000")
        return self._last

    def setval(self, sequence: int, value: int, called: bool) -> int:
        raise NotSupported("setval is not supported")

    def _find(self, sequence: int) -> Sequence:
        session = self._session
        found = session.engine.catalog(session.transaction).objects.get(sequence)
        if not isinstance(found, Sequence):
            raise OrbitError(f"relation with OID {sequence} is not a sequence", sqlstate="42809")
        return found
