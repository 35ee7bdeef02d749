"""Checkpoints: the state at one LSN on the node's disk, so that start-up replays only the log behind it.

Owns what is saved and how it is loaded. `capture` runs on the event loop and copies what may change; `write` runs in a
worker thread: segment blobs first, then one small synced batch that publishes them with the applied position.
Durable means applied at the last synced batch, and only that feeds trim.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from orbit.kernel import records
from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.origin import Origin
from orbit.kernel.schema import Catalog, CatalogObject, Column
from services.storage.moves import SnapshotRef, Tier
from services.storage.state import OpenMove, State
from services.storage.tiers.cold_source import ColdColumns, ColdSource, key_columns
from services.storage.tiers.segment import Segment
from services.storage.tiers.table import TableStore, Version
from services.storage.tiers.warm import BEGINS, ROW_IDS, WarmSource, WarmStore, segment_key

FORMAT = 1
TAIL_PIECE_ROWS = 8192


class SegmentManifest(msgspec.Struct, array_like=True, frozen=True):
    count: int
    schema: tuple[Column, ...]
    newest_change_us: int
    tier: str
    stored_bytes: int = 0
    cold: SnapshotRef | None = None
    """Where the columns that are not in a key are, when the tier is cold."""


class StateRecord(msgspec.Struct, kw_only=True):
    """Everything of the state but rows."""

    format: int
    catalog: list[CatalogObject]
    catalog_version: int
    next_id: int
    timeline: int
    applied_sequence: int
    applied_lsn: int
    applied_time_us: int
    last_hash: bytes
    epoch: int
    leader_node: str
    sequences: dict[int, int]
    cursors: dict[str, int]
    horizon: int
    trimmed_through: int
    moves: list[OpenMove]
    cold: dict[int, records.ColdCommit]
    committed: list[tuple[bytes, int]]
    times: list[tuple[int, int]]
    origins: list[str] = []


@dataclass(slots=True)
class Capture:
    """A checkpoint between `capture` and `write`."""

    sequence: int
    blobs: list[tuple[int, Segment]] = field(default_factory=list)
    puts: list[tuple[bytes, bytes]] = field(default_factory=list)
    ends: list[tuple[bytes, Any]] = field(default_factory=list)
    moved: list[tuple[int, Segment]] = field(default_factory=list)
    """Segments that this checkpoint publishes as cold: RocksDB keeps only their key columns."""
    alive: set[int] = field(default_factory=set)


class Checkpointer:
    """Saves and loads one node's state."""

    def __init__(self, state: State, warm: WarmStore, cold: ColdColumns | None) -> None:
        self._state = state
        self._cold = cold
        self._warm = warm
        self._saved_ends: dict[tuple[int, int], int] = {}
        self._saved: set[tuple[int, int]] = set()
        self._tiers: dict[tuple[int, int], str] = {}
        self.durable_sequence = 0

    def saved(self, storage_id: int, segment: Segment) -> bool:
        """Return whether a segment's columns are on disk under a published manifest."""
        return (storage_id, segment.number) in self._saved

    def capture(self) -> Capture | None:
        """Copy what changes. None while a bulk load is open (its chunks must be replayed) or nothing is new."""
        state = self._state
        if state.loads or state.applied_sequence == self.durable_sequence:
            return None
        capture = Capture(state.applied_sequence)
        for storage_id, store in state.stores.items():
            capture.alive.add(storage_id)
            for segment in store.segments.values():
                self._capture_segment(capture, storage_id, segment)
            self._capture_tail(capture, storage_id, store)
        capture.puts.append((b"mstate", msgspec.msgpack.encode(_state_record(state))))
        return capture

    def write(self, capture: Capture) -> None:
        """Write a captured checkpoint. Runs in a worker thread; the next capture waits for it."""
        for storage_id, segment in capture.blobs:
            if segment.columns is not None:
                segment.stored_bytes = self._warm.save_columns(storage_id, segment)
        for key, ends in capture.ends:
            capture.puts.append((key, _pack_ends(ends)))
        deletes = self._gone(capture)
        self._warm.publish(capture.puts, deletes)
        for storage_id, segment in capture.blobs:
            self._saved.add((storage_id, segment.number))
        for storage_id, segment in capture.moved:
            kept = key_columns(self._state.stores[storage_id].table) if storage_id in self._state.stores else set()
            gone = [column.number for column in segment.schema if column.number not in kept]
            self._warm.drop_columns(storage_id, segment.number, gone)
        for storage_id in {number for number, _ in self._saved} - capture.alive:
            self._warm.drop_storage(storage_id)
            self._saved = {item for item in self._saved if item[0] != storage_id}
        self.durable_sequence = capture.sequence

    def load(self) -> bool:
        """Fill the state from the last checkpoint. False when there is none."""
        data = self._warm.read(b"mstate")
        if data is None:
            return False
        saved = msgspec.msgpack.decode(data, type=StateRecord)
        if saved.format != FORMAT:
            raise RuntimeError(f"the data directory has format {saved.format}, this version reads {FORMAT}")
        _restore_state(self._state, saved)
        for store in self._state.stores.values():
            self._load_segments(store)
            self._load_tail(store)
        self.durable_sequence = saved.applied_sequence
        return True

    def _capture_segment(self, capture: Capture, storage_id: int, segment: Segment) -> None:
        key = segment_key(storage_id, segment.number)
        name = (storage_id, segment.number)
        if name not in self._saved and segment.owner is None:
            capture.blobs.append((storage_id, segment))
        if self._tiers.get(name) != segment.tier and segment.owner is None:
            self._put_manifest(capture, key, segment)
            if segment.tier == Tier.COLD.value:
                capture.moved.append((storage_id, segment))
            self._tiers[name] = segment.tier
        if segment.dead and self._saved_ends.get(name) != segment.ends_version:
            capture.ends.append((b"e" + key, segment.ends.copy()))
            self._saved_ends[name] = segment.ends_version

    def _put_manifest(self, capture: Capture, key: bytes, segment: Segment) -> None:
        ref = segment.source.ref if isinstance(segment.source, ColdSource) else None
        manifest = SegmentManifest(
            segment.count, segment.schema, segment.newest_change_us, segment.tier, segment.stored_bytes, ref
        )
        capture.puts.append((b"s" + key, msgspec.msgpack.encode(manifest)))

    def _capture_tail(self, capture: Capture, storage_id: int, store: TableStore) -> None:
        rows = [(row_id, head.begin, head.row) for row_id, head in store.heads.items() if head.end == INFINITY_LSN]
        encode = msgspec.msgpack.Encoder(decimal_format="string").encode
        for piece, start in enumerate(range(0, len(rows), TAIL_PIECE_ROWS)):
            capture.puts.append((b"t" + segment_key(storage_id, piece), encode(rows[start : start + TAIL_PIECE_ROWS])))

    def _gone(self, capture: Capture) -> list[bytes]:
        """Return the keys of the last checkpoint that this one does not have."""
        kept = {key for key, _ in capture.puts}
        deletes: list[bytes] = []
        for prefix in (b"s", b"e", b"t"):
            for key, _ in self._warm.scan(prefix):
                storage_id = int.from_bytes(key[:8], "big")
                if storage_id not in capture.alive or (prefix == b"t" and prefix + key not in kept):
                    deletes.append(prefix + key)
        return deletes

    def _load_segments(self, store: TableStore) -> None:
        storage_id = store.storage_id
        for key, value in self._warm.scan(b"s" + storage_id.to_bytes(8, "big")):
            number = int.from_bytes(key, "big")
            manifest = msgspec.msgpack.decode(value, type=SegmentManifest)
            ends = self._warm.read(b"e" + segment_key(storage_id, number))
            segment = Segment(
                number,
                manifest.schema,
                None,
                self._warm.load_vector(storage_id, number, ROW_IDS),
                self._warm.load_vector(storage_id, number, BEGINS),
                None if ends is None else _unpack_ends(ends),
                newest_change_us=manifest.newest_change_us,
            )
            segment.stored_bytes = manifest.stored_bytes
            if manifest.cold is not None:
                if self._cold is None:
                    raise RuntimeError("the data directory has cold rows and no cold tier is configured")
                segment.source = ColdSource(self._cold, self._warm, store, segment, manifest.cold)
            else:
                segment.source = WarmSource(self._warm, storage_id, number, manifest.schema)
            if manifest.tier == Tier.HOT.value:
                segment.pin()
            store.add_segment(segment)
            self._saved.add((storage_id, number))
            self._tiers[storage_id, number] = segment.tier

    def _load_tail(self, store: TableStore) -> None:
        for _, value in self._warm.scan(b"t" + store.storage_id.to_bytes(8, "big")):
            for row_id, begin, values in msgspec.msgpack.decode(value):
                row = store.codec.unpack(values)
                store.heads[row_id] = Version(row, begin, None)
                for index in store.indexes.values():
                    index.add(index.key_of(row), row_id)


def _state_record(state: State) -> StateRecord:
    return StateRecord(
        format=FORMAT,
        catalog=list(state.catalog.objects.values()),
        catalog_version=state.catalog.version,
        next_id=state.catalog.next_id,
        timeline=state.timeline,
        applied_sequence=state.applied_sequence,
        applied_lsn=state.applied_lsn,
        applied_time_us=state.applied_time_us,
        last_hash=state.last_hash,
        epoch=state.epoch,
        leader_node=state.leader_node,
        sequences=dict(state.sequences),
        cursors=dict(state.cursors),
        horizon=state.horizon,
        trimmed_through=state.trimmed_through,
        moves=list(state.moves.values()),
        cold=dict(state.cold),
        committed=list(state.committed.items()),
        times=list(state.times),
        origins=[origin.text for origin in state.origins.values()],
    )


def _restore_state(state: State, saved: StateRecord) -> None:
    state.catalog = Catalog({item.id: item for item in saved.catalog}, saved.catalog_version, saved.next_id)
    state.stores = {table.storage_id: TableStore(table) for table in state.catalog.tables()}
    state.timeline = saved.timeline
    state.applied_sequence = saved.applied_sequence
    state.applied_lsn = saved.applied_lsn
    state.applied_time_us = saved.applied_time_us
    state.last_hash = saved.last_hash
    state.epoch = saved.epoch
    state.leader_node = saved.leader_node
    state.sequences = saved.sequences
    state.cursors = saved.cursors
    state.horizon = saved.horizon
    state.trimmed_through = saved.trimmed_through
    for move in saved.moves:
        state.moves[move.begin.move_id] = move
        state.hold_snapshot(move.as_of)
    state.cold = saved.cold
    state.committed.update(saved.committed)
    state.times = [(sequence, time_us) for sequence, time_us in saved.times]
    state.origins = {origin.region: origin for origin in map(Origin.parse, saved.origins)}


def _pack_ends(ends: Any) -> bytes:
    dead = np.flatnonzero(ends != INFINITY_LSN)
    return zlib.compress(
        len(ends).to_bytes(4, "big") + dead.astype("<u4").tobytes() + ends[dead].astype("<i8").tobytes(), 1
    )


def _unpack_ends(data: bytes) -> Any:
    raw = zlib.decompress(data)
    count = int.from_bytes(raw[:4], "big")
    dead = (len(raw) - 4) // 12
    ends = np.full(count, INFINITY_LSN, np.int64)
    offsets = np.frombuffer(raw, "<u4", dead, 4)
    ends[offsets] = np.frombuffer(raw, "<i8", dead, 4 + 4 * dead)
    return ends
