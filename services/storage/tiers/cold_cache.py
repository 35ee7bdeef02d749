"""A local disk cache of parts of remote objects.

Each object is one sparse local file of the object's size; a bitmap says which blocks of it have been fetched. So a
reader of a few columns fetches a few megabytes of a 256 MB file, and then reads a plain local file at native speed.
Reading a hole shows as a bad page checksum, never as wrong data.

Owns the byte limit (blocks fetched; the least recently used objects go first) and its folder, which it empties at
start. Thread-safe: one thread fetches for a file at a time, different files go in parallel.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orbit.kernel.errors import DiskFull, StoreUnavailable

BLOCK_BYTES: Final = 256 << 10
REQUEST_BYTES: Final = 8 << 20
"""Most bytes of one ranged request; several run in parallel."""

Span = tuple[int, int]
"""(offset, length) in bytes."""
Fetch = Callable[[str, Sequence[Span]], list[bytes]]
"""Fetches spans of the object at a location. Raises StoreUnavailable."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One object's local file. `fetched` has one byte for each block."""

    path: Path
    size_bytes: int
    fetched: bytearray
    lock: threading.Lock = field(default_factory=threading.Lock)
    bytes_held: int = 0
    pins: int = 0


class BlockCache:
    """Parts of remote objects on the local disk, up to `limit_bytes` (more only while one read needs more)."""

    def __init__(self, folder: Path, limit_bytes: int, fetch: Fetch) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._fetch = fetch
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._names = 0
        self.bytes_held = 0
        self.bytes_fetched = 0
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)

    @contextmanager
    def pinned(self, location: str, size_bytes: int) -> Iterator[CachedObject]:
        """Keep an object's local file for the length of the block."""
        with self._lock:
            entry = self._entries.get(location)
            if entry is None:
                self._names += 1
                path = self._folder / f"{self._names:08}.part"
                blocks = -(-size_bytes // BLOCK_BYTES)
                entry = self._entries[location] = _Entry(path, size_bytes, bytearray(blocks))
            self._entries.move_to_end(location)
            entry.pins += 1
        try:
            yield CachedObject(self, location, entry)
        finally:
            with self._lock:
                entry.pins -= 1
                self._evict()

    def close(self) -> None:
        """Remove the folder. No read may be under way."""
        with self._lock:
            self._entries.clear()
            self.bytes_held = 0
        shutil.rmtree(self._folder, ignore_errors=True)

    def ensure(self, location: str, entry: _Entry, spans: Sequence[Span]) -> None:
        """Fetch what is missing of these spans. Raises StoreUnavailable, DiskFull."""
        with entry.lock:
            wanted = _missing(entry, spans)
            if not wanted:
                return
            parts = self._fetch(location, wanted)
            try:
                self._store(entry, wanted, parts)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise DiskFull(f"no space left for the cold tier's cache in {self._folder}") from error
                raise
            added = sum(len(part) for part in parts)
            entry.bytes_held += added
        with self._lock:
            self.bytes_held += added
            self.bytes_fetched += added
            self._evict()

    def _store(self, entry: _Entry, spans: Sequence[Span], parts: Sequence[bytes]) -> None:
        descriptor = os.open(entry.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, entry.size_bytes)
            for (offset, length), part in zip(spans, parts, strict=True):
                if len(part) != length:
                    raise StoreUnavailable(f"an object is shorter than its manifest says: {len(part)} < {length} bytes")
                written = 0
                while written < length:
                    written += os.pwrite(descriptor, part[written:], offset + written)
                first = offset // BLOCK_BYTES
                entry.fetched[first : first + -(-length // BLOCK_BYTES)] = b"\1" * -(-length // BLOCK_BYTES)
        finally:
            os.close(descriptor)

    def _evict(self) -> None:
        """Drop the least recently used files that nobody reads until the limit holds. Needs the lock."""
        if self.bytes_held <= self._limit_bytes:
            return
        for location, entry in list(self._entries.items()):
            if entry.pins:
                continue
            del self._entries[location]
            entry.path.unlink(missing_ok=True)
            self.bytes_held -= entry.bytes_held
            if self.bytes_held <= self._limit_bytes:
                return


class CachedObject:
    """A pinned object: fetch spans of it, then read them from `path`."""

    def __init__(self, cache: BlockCache, location: str, entry: _Entry) -> None:
        self._cache = cache
        self._location = location
        self._entry = entry

    @property
    def path(self) -> Path:
        return self._entry.path

    def ensure(self, spans: Sequence[Span]) -> None:
        """Make these spans present in the local file."""
        self._cache.ensure(self._location, self._entry, spans)


def _missing(entry: _Entry, spans: Sequence[Span]) -> list[Span]:
    """Return block-aligned spans that cover what is not there yet: neighbours joined, none too long."""
    blocks = sorted(
        {
            block
            for offset, length in spans
            if length > 0
            for block in range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1)
            if not entry.fetched[block]
        }
    )
    most = REQUEST_BYTES // BLOCK_BYTES
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] and block - runs[-1][0] < most:
            runs[-1][1] = block + 1
        else:
            runs.append([block, block + 1])
    return [
        (first * BLOCK_BYTES, min(last * BLOCK_BYTES, entry.size_bytes) - first * BLOCK_BYTES) for first, last in runs
    ]
