"""Checkpoints: the state at one LSN on the node's disk, so that start-up replays only the log behind it.

Owns what is saved and how it is loaded. `capture` runs on the event loop and copies what may change; `write` runs in a
worker thread: segment blobs first, then one small synced batch that publishes them with the applied position.
Durable means applied at the last synced batch, and only that feeds trim.
"""

from __future__ import annotations

import weakref
import zlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from orbit.kernel import records
from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.origin import Origin
from orbit.kernel.records import Row
from orbit.kernel.schema import Catalog, CatalogObject, Column
from services.storage.moves import SnapshotRef, Tier
from services.storage.state import OpenMove, State
from services.storage.tiers.cold_source import ColdColumns, ColdSource, key_columns
from services.storage.tiers.segment import Segment
from services.storage.tiers.table import TableStore, Version
from services.storage.tiers.warm import BEGINS, ROW_IDS, WarmSource, WarmStore, segment_key, unpack_segment_key

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
    cold_as_of: int = 0
    """The LSN as of which they were copied there."""


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


Name = tuple[int, int]
"""A segment by its storage id and number."""

TailRow = tuple[int, int, Row]
"""Row id, begin LSN, row."""


@dataclass(slots=True)
class Capture:
    """A checkpoint between `capture` and `write`."""

    state: StateRecord
    blobs: list[tuple[int, Segment]] = field(default_factory=list)
    manifests: list[tuple[int, Segment, str, ColdSource | None]] = field(default_factory=list)
    """(storage id, segment, tier, source of a cold one) that are new or have changed their tier."""
    ends: list[tuple[Name, int, Any]] = field(default_factory=list)
    """(segment, version of its end vector, the vector) of segments with dead versions."""
    tails: list[tuple[int, list[TailRow]]] = field(default_factory=list)
    moved: list[tuple[Name, list[int]]] = field(default_factory=list)
    """(segment, columns) that this checkpoint publishes as cold: RocksDB keeps only the key columns."""
    alive: set[int] = field(default_factory=set)
    segments: dict[Name, weakref.ref[Segment]] = field(default_factory=dict)

    @property
    def sequence(self) -> int:
        return self.state.applied_sequence


class Checkpointer:
    """Saves and loads one node's state."""

    def __init__(self, state: State, warm: WarmStore, cold: ColdColumns | None) -> None:
        self._state = state
        self._cold = cold
        self._warm = warm
        # What the last published checkpoint says of each segment. Changed only after a checkpoint is published.
        self._saved: set[Name] = set()
        self._saved_ends: dict[Name, int] = {}
        self._tiers: dict[Name, str] = {}
        self._leaving: dict[Name, weakref.ref[Segment] | None] = {}
        """Segments that no checkpoint names any more, until no scan reads them."""
        self._known: dict[Name, weakref.ref[Segment]] = {}
        self._storages: set[int] = set()
        """Storage ids that may have blobs."""
        self.durable_sequence = 0

    def saved(self, storage_id: int, segment: Segment) -> bool:
        """Return whether a segment's columns are on disk under a published manifest."""
        return (storage_id, segment.number) in self._saved

    def capture(self) -> Capture | None:
        """Copy what changes. None while a bulk load is open (its chunks must be replayed) or nothing is new."""
        state = self._state
        if state.loads or (state.applied_sequence == self.durable_sequence and self._segments_are_known()):
            return None
        capture = Capture(_state_record(state))
        for storage_id, store in state.stores.items():
            capture.alive.add(storage_id)
            for segment in store.segments.values():
                self._capture_segment(capture, store, segment)
            rows = [(row_id, head.begin, head.row) for row_id, head in store.heads.items() if head.end == INFINITY_LSN]
            capture.tails.append((storage_id, rows))
        return capture

    def _segments_are_known(self) -> bool:
        """Return whether every segment is on disk, under the tier that it is in: sealing and moving log nothing."""
        return all(
            self._tiers.get((storage_id, number)) == segment.tier
            for storage_id, store in self._state.stores.items()
            for number, segment in store.segments.items()
        )

    def write(self, capture: Capture) -> None:
        """Write a captured checkpoint. Runs in a worker thread; the next capture waits for it.

        Raises OrbitError when the disk does not take it: then the last checkpoint stands, and the next one writes what
        this one could not.
        """
        for storage_id, segment in capture.blobs:
            if segment.columns is not None:
                segment.stored_bytes = self._warm.save_columns(storage_id, segment)
        puts = _puts(capture)
        gone = {name for name in self._saved if name not in capture.segments}
        self._warm.publish(puts, self._deletes(capture, {key for key, _ in puts}, gone))
        self._published(capture, gone)
        for (storage_id, number), columns in capture.moved:
            self._warm.drop_columns(storage_id, number, columns)
        self._drop_unread(capture.alive)

    def _published(self, capture: Capture, gone: set[Name]) -> None:
        """Remember what is on disk now."""
        self.durable_sequence = capture.sequence
        for name in gone:
            self._saved.discard(name)
            self._saved_ends.pop(name, None)
            self._tiers.pop(name, None)
            self._leaving[name] = self._known.get(name)
        for storage_id, segment in capture.blobs:
            self._saved.add((storage_id, segment.number))
        for storage_id, segment, tier, _ in capture.manifests:
            self._tiers[storage_id, segment.number] = tier
        for name, version, _ in capture.ends:
            self._saved_ends[name] = version
        self._known = capture.segments

    def _drop_unread(self, alive: set[int]) -> None:
        """Delete the blobs of segments that are gone, once no scan that began before still reads them."""
        for name, segment in list(self._leaving.items()):
            if segment is None or segment() is None:
                del self._leaving[name]
                self._warm.drop_segment(*name)
        for storage_id in self._storages - alive - {name[0] for name in self._leaving}:
            self._storages.discard(storage_id)
            self._warm.drop_storage(storage_id)
        self._storages |= alive

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
        self._storages = set(self._state.stores)
        self.durable_sequence = saved.applied_sequence
        return True

    def _capture_segment(self, capture: Capture, store: TableStore, segment: Segment) -> None:
        assert segment.owner is None, "nothing is captured while a load is open"
        name = (store.storage_id, segment.number)
        capture.segments[name] = self._known.get(name) or weakref.ref(segment)
        if name not in self._saved:
            capture.blobs.append((store.storage_id, segment))
        tier = segment.tier
        if self._tiers.get(name) != tier:
            source = segment.source if isinstance(segment.source, ColdSource) else None
            capture.manifests.append((store.storage_id, segment, tier, source))
            if tier == Tier.COLD.value:
                kept = key_columns(store.table)
                columns = [column.number for column in segment.schema if column.number not in kept]
                capture.moved.append((name, columns))
        if segment.dead and self._saved_ends.get(name) != segment.ends_version:
            capture.ends.append((name, segment.ends_version, segment.ends.copy()))

    def _deletes(self, capture: Capture, kept: set[bytes], gone: set[Name]) -> list[bytes]:
        """Return the keys of the last checkpoint that this one does not have."""
        deletes: list[bytes] = []
        for prefix in (b"s", b"e", b"t"):
            for key in self._warm.keys(prefix):
                name = unpack_segment_key(key)
                if name[0] not in capture.alive or (prefix + key not in kept if prefix == b"t" else name in gone):
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
                segment.source = ColdSource(self._cold, self._warm, store, segment, manifest.cold, manifest.cold_as_of)
            else:
                segment.source = WarmSource(self._warm, storage_id, number, manifest.schema)
            if manifest.tier == Tier.HOT.value:
                segment.pin()
            store.add_segment(segment)
            self._saved.add((storage_id, number))
            self._tiers[storage_id, number] = segment.tier
            self._known[storage_id, number] = weakref.ref(segment)
            if ends is not None:
                self._saved_ends[storage_id, number] = segment.ends_version

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
    state.stores = {table.storage_id: TableStore(table, state.tier_reads) for table in state.catalog.tables()}
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


def _puts(capture: Capture) -> list[tuple[bytes, bytes]]:
    """Return the keys and values of the batch that publishes a checkpoint."""
    puts: list[tuple[bytes, bytes]] = []
    for storage_id, segment, tier, source in capture.manifests:
        manifest = SegmentManifest(
            segment.count,
            segment.schema,
            segment.newest_change_us,
            tier,
            segment.stored_bytes,
            None if source is None else source.ref,
            0 if source is None else source.as_of,
        )
        puts.append((b"s" + segment_key(storage_id, segment.number), msgspec.msgpack.encode(manifest)))
    for name, _, ends in capture.ends:
        puts.append((b"e" + segment_key(*name), _pack_ends(ends)))
    encode = msgspec.msgpack.Encoder(decimal_format="string").encode
    for storage_id, rows in capture.tails:
        for piece, start in enumerate(range(0, len(rows), TAIL_PIECE_ROWS)):
            puts.append((b"t" + segment_key(storage_id, piece), encode(rows[start : start + TAIL_PIECE_ROWS])))
    puts.append((b"mstate", msgspec.msgpack.encode(capture.state)))
    return puts


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
