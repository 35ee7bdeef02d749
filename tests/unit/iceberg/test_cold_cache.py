"""The block cache of remote objects: fetches what is missing, once, and stays within its limit."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orbit.kernel.errors import DiskFull, StoreUnavailable
from services.storage.tiers.cold_cache import BLOCK_BYTES, REQUEST_BYTES, BlockCache, Span

SIZE = 10 * BLOCK_BYTES + 123


class Store:
    """Remote objects of random bytes that counts what is asked of it."""

    def __init__(self) -> None:
        self.objects = {name: os.urandom(SIZE) for name in "abcd"}
        self.spans: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def fetch(self, location: str, spans: Sequence[Span]) -> list[bytes]:
        with self._lock:
            self.spans.extend((location, *span) for span in spans)
        return [self.objects[location][offset : offset + length] for offset, length in spans]


@pytest.fixture
def store() -> Store:
    return Store()


def read(cache: BlockCache, location: str, offset: int, length: int) -> bytes:
    with cache.pinned(location, SIZE) as cached:
        cached.ensure([(offset, length)])
        with cached.path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)


def test_only_missing_blocks_are_fetched(store: Store, tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 1 << 30, store.fetch)
    assert read(cache, "a", 5, 10) == store.objects["a"][5:15]
    assert store.spans == [("a", 0, BLOCK_BYTES)]
    assert read(cache, "a", 100, BLOCK_BYTES * 2) == store.objects["a"][100 : 100 + BLOCK_BYTES * 2]
    assert store.spans[1:] == [("a", BLOCK_BYTES, 2 * BLOCK_BYTES)]
    assert read(cache, "a", SIZE - 8, 8) == store.objects["a"][-8:]
    assert store.spans[2:] == [("a", 10 * BLOCK_BYTES, 123)]
    read(cache, "a", 0, 3 * BLOCK_BYTES)
    assert len(store.spans) == 3
    assert cache.bytes_held == 3 * BLOCK_BYTES + 123


def test_long_spans_are_split_for_parallel_requests(tmp_path: Path) -> None:
    size = REQUEST_BYTES * 2 + BLOCK_BYTES
    seen: list[Span] = []

    def fetch(_: str, spans: Sequence[Span]) -> list[bytes]:
        seen.extend(spans)
        return [bytes(length) for _, length in spans]

    cache = BlockCache(tmp_path / "cache", 1 << 30, fetch)
    with cache.pinned("x", size) as cached:
        cached.ensure([(0, size)])
    assert [length for _, length in seen] == [REQUEST_BYTES, REQUEST_BYTES, BLOCK_BYTES]


def test_the_least_recently_used_goes_first_and_pinned_files_stay(store: Store, tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", SIZE * 2, store.fetch)
    for name in "ab":
        read(cache, name, 0, SIZE)
    read(cache, "a", 0, 1)
    with cache.pinned("c", SIZE) as cached:
        cached.ensure([(0, SIZE)])
        assert cache.bytes_held <= SIZE * 2
        fetched = len(store.spans)
        read(cache, "a", 0, SIZE)
        assert len(store.spans) == fetched, "a was used later than b"
        read(cache, "d", 0, SIZE)
        assert cached.path.read_bytes() == store.objects["c"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert read(cache, "b", 7, 100) == store.objects["b"][7:107]


def test_many_threads_read_right_bytes_and_fetch_each_block_once(store: Store, tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 1 << 30, store.fetch)

    def work(seed: int) -> None:
        for step in range(40):
            name = "abcd"[(seed + step) % 4]
            offset = (seed * 7919 + step * 104729) % (SIZE - 5000)
            assert read(cache, name, offset, 5000) == store.objects[name][offset : offset + 5000]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    blocks = [(name, at) for name, offset, length in store.spans for at in range(offset, offset + length, BLOCK_BYTES)]
    assert len(blocks) == len(set(blocks))


def test_failures_leave_nothing_half_there(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlockCache(tmp_path / "cache", 1 << 30, lambda location, spans: [b"short"] * len(spans))
    with pytest.raises(StoreUnavailable, match="shorter"):
        read(cache, "a", 0, 10)
    assert cache.bytes_held == 0

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    cache = BlockCache(tmp_path / "other", 1 << 30, store.fetch)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        read(cache, "a", 0, 10)
    monkeypatch.undo()
    assert read(cache, "a", 0, 10) == store.objects["a"][:10]


def test_left_overs_of_a_crash_are_removed_at_start(store: Store, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "00000001.part").write_bytes(b"old")
    cache = BlockCache(tmp_path / "cache", 1 << 30, store.fetch)
    assert read(cache, "a", 0, 3) == store.objects["a"][:3]
    cache.close()
    assert not (tmp_path / "cache").exists()
