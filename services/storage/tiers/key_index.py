"""A compact hash index from keys to positions of sealed rows.

Owns the hash table; not the keys: those stay in the segments' columns, and callers verify each candidate there.
Open addressing with linear probing over one numpy array of 64-bit entries:

    | upper 32 bits: fragment of the key's hash | lower 32 bits: position + 1 (0 = free slot) |

A slot's home is the top bits of the fragment, so growing needs no keys. Entries are never taken out one by one:
a position whose segment is gone fails verification, and `rebuild` drops it.
8 bytes a slot at a load of at most 0.6; a look-up costs about 0.5 us, bulk insertion about 60 ns a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Fragments = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_MIN_BITS = 10
_MAX_LOAD = 0.6
_POSITION_MASK = 0xFFFFFFFF
MAX_SEGMENTS = 0xFFFF
"""Segment numbers are below: a position and one more must fit 32 bits."""


def fragment_of(key: object) -> int:
    """Return the 32-bit hash fragment of one key (an int, str, bytes or a tuple of such)."""
    return (hash(key) * _MULTIPLIER & _WORD) >> 32


def fragments_of(keys: Sequence[Any] | npt.NDArray[np.int64]) -> Fragments:
    """Return the fragments of many keys. An integer array must hold what `hash` would give: see `int_keys_hash`."""
    if isinstance(keys, np.ndarray):
        hashes = int_keys_hash(keys)
    else:
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
    return (hashes.view(np.uint64) * np.uint64(_MULTIPLIER)) >> np.uint64(32)


def int_keys_hash(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return Python's `hash` of each integer: the value modulo 2**61 - 1, sign kept, and -2 for -1."""
    modulus = np.int64((1 << 61) - 1)
    hashes: npt.NDArray[np.int64] = keys.astype(np.int64, copy=True)
    large = (hashes >= modulus) | (hashes <= -modulus)
    if large.any():
        hashes[large] = np.fromiter(map(hash, hashes[large].tolist()), np.int64, int(large.sum()))
    hashes[hashes == -1] = -2
    return hashes


class KeyIndex:
    """Key fragments to positions. Positions are below 2**32 - 1; several may share a key."""

    __slots__ = ("_bits", "_shift", "_slots", "_table", "count")

    def __init__(self, expected: int = 0) -> None:
        self.count = 0
        self._allocate(max(_MIN_BITS, int(expected / _MAX_LOAD).bit_length()))

    @property
    def size_bytes(self) -> int:
        return self._table.nbytes

    def find(self, key: object) -> list[int]:
        """Return the candidate positions of a key, for the caller to verify."""
        fragment = (hash(key) * _MULTIPLIER & _WORD) >> 32
        slots = self._slots
        mask = len(slots) - 1
        slot = fragment >> self._shift
        found: list[int] = []
        while entry := slots[slot]:
            if entry >> 32 == fragment:
                found.append((entry & _POSITION_MASK) - 1)
            slot = slot + 1 & mask
        return found

    def add(self, key: object, position: int) -> None:
        self.add_many(np.array([fragment_of(key)], np.uint64), np.array([position], np.int64))

    def add_many(self, fragments: Fragments, positions: Positions) -> None:
        """Insert entries in bulk; order among equal keys is not kept."""
        needed = self.count + len(fragments)
        if needed > len(self._table) * _MAX_LOAD:
            self._grow(needed)
        self._place(fragments << np.uint64(32) | (positions + 1).astype(np.uint64))
        self.count = needed

    def probe_many(self, fragments: Fragments) -> tuple[npt.NDArray[np.int64], Positions]:
        """Return (indexes into `fragments`, candidate positions), one pair for each candidate."""
        table, mask = self._table, np.int64(len(self._table) - 1)
        at = np.arange(len(fragments), dtype=np.int64)
        slots = (fragments >> np.uint64(self._shift)).astype(np.int64)
        hits_at: list[npt.NDArray[np.int64]] = []
        hits: list[Positions] = []
        while len(at):
            entries = table[slots]
            equal = (entries >> np.uint64(32) == fragments[at]) & (entries != 0)
            if equal.any():
                hits_at.append(at[equal])
                hits.append((entries[equal] & np.uint64(_POSITION_MASK)).astype(np.int64) - 1)
            more = entries != 0
            at, slots = at[more], (slots[more] + 1) & mask
        if not hits:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(hits_at), np.concatenate(hits)

    def rebuild(self, alive: Callable[[Positions], npt.NDArray[np.bool_]]) -> None:
        """Drop the entries whose positions are no longer alive."""
        entries = self._table[self._table != 0]
        positions = (entries & np.uint64(_POSITION_MASK)).astype(np.int64) - 1
        entries = entries[alive(positions)]
        self._allocate(max(_MIN_BITS, int(len(entries) / _MAX_LOAD).bit_length()))
        self._place(entries)
        self.count = len(entries)

    def _allocate(self, bits: int) -> None:
        self._bits = bits
        self._shift = 32 - bits
        assert self._shift >= 0, "a key index holds at most 2**32 slots"
        self._table: npt.NDArray[np.uint64] = np.zeros(1 << bits, np.uint64)
        self._slots: memoryview[int] = self._table.data

    def _grow(self, needed: int) -> None:
        entries = self._table[self._table != 0]
        self._allocate(int(needed / _MAX_LOAD).bit_length() + 1)
        self._place(entries)

    def _place(self, entries: npt.NDArray[np.uint64]) -> None:
        table, mask = self._table, np.int64(len(self._table) - 1)
        slots = (entries >> np.uint64(32 + self._shift)).astype(np.int64)
        while len(entries):
            free = table[slots] == 0
            # Several entries may want one free slot: the last write wins, the others go on to the next slot.
            table[slots[free]] = entries[free]
            losers = table[slots] != entries
            entries, slots = entries[losers], (slots[losers] + 1) & mask


def positions_of(segment_number: int, offsets: Iterable[int] | npt.NDArray[np.int64]) -> Positions:
    """Return the positions of rows of one segment: segment number in the upper 16 bits, offset in the lower 16."""
    if segment_number >= MAX_SEGMENTS:
        raise OverflowError(f"segment {segment_number} of a table is past the {MAX_SEGMENTS} that a key index can name")
    if not isinstance(offsets, np.ndarray):
        offsets = np.fromiter(offsets, np.int64)
    return offsets + (np.int64(segment_number) << np.int64(16))
