"""Sequence values on the leader: handed out from blocks that the log has reserved.

Owns the values in hand. A block is in the log before its first value is given, so a value never comes twice,
whatever fails; what is left of a block is skipped, as in PostgreSQL. A sequence that only a transaction's own
catalog knows counts in that transaction.
"""

from __future__ import annotations

from collections.abc import Callable

from orbit.kernel.errors import OrbitError
from orbit.kernel.limits import SEQUENCE_BLOCK
from orbit.kernel.schema import Sequence
from services.storage.state import State
from services.storage.txn.transaction import Transaction


class ReservationNeeded(Exception):
    """The block in hand is used up: reserve the next one, then run the statement again."""

    def __init__(self, sequence: Sequence) -> None:
        super().__init__(sequence.name)
        self.sequence = sequence


class SequenceValues:
    """The blocks in hand, of one reign."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._epoch = 0
        self._blocks: dict[int, tuple[int, int]] = {}
        """Per sequence: the next value, and the last of the block."""

    def next(self, sequence: Sequence, transaction: Transaction | None) -> int:
        """Return the next value. Raises ReservationNeeded, and 2200H past the maximum."""
        if sequence.id not in self._state.catalog.objects:
            assert transaction is not None, "only a transaction's own catalog names unknown sequences"
            last = transaction.sequences.get(sequence.id)
            value = sequence.start if last is None else last + sequence.increment
            _check(sequence, value)
            transaction.sequences[sequence.id] = value
            return value
        if self._epoch != self._state.epoch:
            self._epoch, self._blocks = self._state.epoch, {}
        block = self._blocks.get(sequence.id)
        if block is None or block[0] > block[1]:
            self._first_of_block(sequence)
            raise ReservationNeeded(sequence)
        self._blocks[sequence.id] = (block[0] + sequence.increment, block[1])
        return block[0]

    def reserve(self, sequence: Sequence, at_least: int) -> tuple[int, Callable[[], None]]:
        """Return the last value of the next block, to be logged, and what takes the block in hand once it is."""
        first = self._first_of_block(sequence)
        through = min(first + (max(SEQUENCE_BLOCK, at_least) - 1) * sequence.increment, sequence.maximum)
        epoch = self._state.epoch

        def taken() -> None:
            if self._state.epoch == epoch:
                self._epoch = epoch
                self._blocks[sequence.id] = (first, through)

        return through, taken

    def _first_of_block(self, sequence: Sequence) -> int:
        through = self._state.sequences.get(sequence.id)
        first = sequence.start if through is None else through + sequence.increment
        _check(sequence, first)
        return first


def _check(sequence: Sequence, value: int) -> None:
    if value > sequence.maximum:
        raise OrbitError(
            f'nextval: reached maximum value of sequence "{sequence.name}" ({sequence.maximum})', sqlstate="2200H"
        )
