"""A table's rows against a plain list of versions, over random histories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from orbit.kernel.ids import INFINITY_LSN, pack
from orbit.kernel.records import Row
from orbit.kernel.schema import Column, Index, Table
from orbit.kernel.types import Oid, SqlType, arrow_type
from services.storage.tiers import table as table_module
from services.storage.tiers.segment import columns_of
from services.storage.tiers.table import TableStore

COLUMNS = (
    Column(number=1, name="id", type=SqlType(Oid.INT8), nullable=False),
    Column(number=2, name="a", type=SqlType(Oid.INT4)),
    Column(number=3, name="b", type=SqlType(Oid.TEXT)),
    Column(number=4, name="n", type=SqlType(Oid.NUMERIC)),
)
PRIMARY = Index(id=101, name="t_pkey", columns=(1,), unique=True, primary=True)
PAIR = Index(id=102, name="t_a_b_key", columns=(2, 3), unique=True)
LATE = Index(id=103, name="t_b_a_key", columns=(3, 2), unique=True)


def table(*indexes: Index) -> Table:
    return Table(
        id=1, schema="public", name="t", columns=COLUMNS, storage_id=7, owner="o", indexes=indexes or (PRIMARY, PAIR)
    )


@dataclass
class Image:
    """One version in the model."""

    row_id: int
    row: Row
    begin: int
    end: int = INFINITY_LSN


@dataclass
class Model:
    """The store, and beside it every version ever, with the LSNs that somebody still reads at."""

    rng: random.Random
    store: TableStore
    images: list[Image] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    loads: dict[bytes, list[tuple[int, Row]]] = field(default_factory=dict)
    sequence: int = 0

    def alive(self, snapshot: int | None = None) -> dict[int, Image]:
        if snapshot is None:
            return {image.row_id: image for image in self.images if image.end == INFINITY_LSN}
        return {image.row_id: image for image in self.images if image.begin <= snapshot < image.end}

    @property
    def now(self) -> int:
        return pack(self.sequence, 9)

    def next_lsn(self) -> int:
        self.sequence += 1
        return pack(self.sequence, self.rng.randrange(3))

    def new_row(self) -> Row | None:
        """Return a row whose unique keys are free, with NULLs and keys that were used and given up."""
        rng = self.rng
        row = (rng.choice([-1, -2, rng.randrange(300), (1 << 61) - 1]), *self.rest())
        return None if self.conflicts(row, None) else row

    def rest(self) -> Row:
        rng = self.rng
        return (rng.choice([None, rng.randrange(30)]), rng.choice([None, f"b{rng.randrange(30)}"]), None)

    def conflicts(self, row: Row, row_id: int | None) -> bool:
        taken = [(image.row_id, image.row) for image in self.alive().values()]
        taken += [item for load in self.loads.values() for item in load]
        for other_id, other in taken:
            if other_id == row_id:
                continue
            if other[0] == row[0] or (None not in row[1:3] and other[1:3] == row[1:3]):
                return True
        return False

    @property
    def keep(self) -> bool:
        return bool(self.held)

    @property
    def oldest(self) -> int | None:
        return min(self.held) if self.held else None


def insert(model: Model) -> None:
    row = model.new_row()
    if row is not None:
        lsn = model.next_lsn()
        row_id = pack(model.sequence, model.rng.randrange(100))
        model.store.insert(row_id, row, lsn)
        model.images.append(Image(row_id, row, lsn))


def update(model: Model) -> None:
    alive = list(model.alive().values())
    if not alive:
        return
    image = model.rng.choice(alive)
    row: Row = (image.row[0], *model.rest()) if model.rng.random() < 0.5 else (*image.row[:3], Decimal(model.sequence))
    if model.rng.random() < 0.3:
        row = (model.rng.randrange(300), *row[1:])
    if not model.conflicts(row, image.row_id):
        image.end = model.next_lsn()
        model.store.update(image.row_id, row, image.end, model.keep)
        model.images.append(Image(image.row_id, row, image.end))


def delete(model: Model) -> None:
    alive = list(model.alive().values())
    if alive:
        image = model.rng.choice(alive)
        image.end = model.next_lsn()
        model.store.delete(image.row_id, image.end, model.keep)
        if model.rng.random() < 0.5 and not model.conflicts(image.row, None):
            lsn = model.next_lsn()
            row_id = pack(model.sequence, 0)
            model.store.insert(row_id, image.row, lsn)
            model.images.append(Image(row_id, image.row, lsn))


def hold(model: Model) -> None:
    if len(model.held) < 4:
        model.held.append(model.now)


def release(model: Model) -> None:
    if model.held:
        model.held.remove(model.rng.choice(model.held))


def seal(model: Model) -> None:
    model.store.seal(model.rng.choice([1, 5, 200]), model.oldest, lambda lsn: lsn)


def collect(model: Model) -> None:
    model.store.collect(model.oldest)
    if model.oldest is None:
        model.images = list(model.alive().values())
    else:
        model.images = [image for image in model.images if image.end > model.oldest]


def load(model: Model) -> None:
    owner = model.rng.choice([b"one", b"two"])
    model.sequence += 1
    rows: list[Row] = []
    mine = model.loads.setdefault(owner, [])
    for _ in range(model.rng.choice([1, 3, 12])):
        row = model.new_row()
        if row is not None:
            rows.append(row)
            mine.append((pack(model.sequence, len(rows) - 1), row))
    if rows:
        arrays = columns_of(rows, COLUMNS)
        batch = pa.RecordBatch.from_arrays(
            [arrays[column.number] for column in COLUMNS],
            schema=pa.schema([(column.name, arrow_type(column.type)) for column in COLUMNS]),
        )
        model.store.add_bulk(owner, batch, pack(model.sequence, 0), 0, 0)


def publish(model: Model) -> None:
    for owner in list(model.loads):
        lsn = model.next_lsn()
        rows = model.loads.pop(owner)
        model.store.publish_bulk(owner, lsn, lsn)
        model.images += [Image(row_id, row, lsn) for row_id, row in rows]
        return


def drop(model: Model) -> None:
    for owner in list(model.loads):
        del model.loads[owner]
        model.store.drop_bulk(owner)
        return


def redefine(model: Model) -> None:
    """ALTER TABLE builds an index over everything, or drops one."""
    wanted = (PRIMARY, PAIR) if LATE.id in model.store.indexes else (PRIMARY, PAIR, LATE)
    model.store.define(table(*wanted))


STEPS = [insert] * 12 + [update] * 12 + [delete] * 5 + [hold, hold, release, release, seal, seal, collect]
STEPS += [load, load, publish, publish, drop, redefine]


def check(model: Model) -> None:
    """Compare every way of reading, for the newest state and for each snapshot that is held."""
    store, newest = model.store, model.alive()
    assert store.row_count() == len(newest)
    for row_id in {image.row_id for image in model.images}:
        image = newest.get(row_id)
        assert store.newest(row_id) == (None if image is None else image.row)
    for snapshot in [*model.held, model.now]:
        seen = model.alive(snapshot)
        wanted = sorted((row_id, repr(image.row)) for row_id, image in seen.items())
        assert sorted((row_id, repr(row)) for row_id, row in store.rows_at(snapshot)) == wanted
        assert sorted(repr(row) for row in scanned(store, snapshot)) == sorted(shown for _, shown in wanted)
        for row_id in {image.row_id for image in model.images}:
            assert store.at(row_id, snapshot) == (seen[row_id].row if row_id in seen else None)
    for owner, rows in model.loads.items():
        for row_id, row in rows:
            assert store.find_loaded(store.indexes[PRIMARY.id], row[0], owner) == (row_id, row)
            assert store.loaded_row(row_id, owner) == row and store.newest(row_id) is None
    for index in store.indexes.values():
        check_index(model, index)


def check_index(model: Model, index: Any) -> None:
    everything = {index.key_of(image.row) for image in model.images}
    everything |= {index.key_of(row) for rows in model.loads.values() for _, row in rows}
    for key in everything:
        if not index.indexes(key):
            continue
        wanted = [(i.row_id, i.row) for i in model.alive().values() if index.key_of(i.row) == key]
        assert model.store.find(index, key) == (wanted[0] if wanted else None)
        for snapshot in model.held:
            wanted = [(i.row_id, i.row) for i in model.alive(snapshot).values() if index.key_of(i.row) == key]
            assert model.store.find_at(index, key, snapshot) == (wanted[0] if wanted else None)


def scanned(store: TableStore, snapshot: int) -> Iterator[Row]:
    numbers = [column.number for column in COLUMNS]
    for part in store.scan(snapshot):
        batch = part.load(store.table, numbers)
        assert batch.num_rows == part.rows
        for *values, number in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield (*values, None if number is None else Decimal(number))


def history(seed: int, steps: int) -> Model:
    model = Model(random.Random(seed), TableStore(table()))
    for step in range(steps):
        action = model.rng.choice(STEPS)
        action(model)
        if step % 7 == 0:
            check(model)
    check(model)
    return model


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("small", [0, 3], ids=["every load a segment", "small loads to the tail"])
def test_random_histories_read_as_the_model(seed: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "SMALL_LOAD_ROWS", small)
    history(seed, 220)


@pytest.mark.parametrize("seed", range(20, 26))
def test_nothing_is_left_behind_when_nobody_reads_the_past(seed: int) -> None:
    """Keys, versions and dead segments go: what stays is what is alive."""
    model = history(seed, 250)
    store = model.store
    for owner in list(model.loads):
        del model.loads[owner]
        store.drop_bulk(owner)
    model.held.clear()
    for image in list(model.alive().values()):
        row = (image.row[0], None, None, Decimal(-1))
        image.end = model.next_lsn()
        store.update(image.row_id, row, image.end, keep=False)
        model.images.append(Image(image.row_id, row, image.end))
    collect(model)
    check(model)
    assert not store.segments
    for index in store.indexes.values():
        entries = [row for entry in index.tail.values() for row in (entry if isinstance(entry, list) else [entry])]
        keys = [index.key_of(image.row) for image in model.alive().values()]
        assert len(entries) == sum(1 for key in keys if index.indexes(key)), seed
    assert store.seal(10_000, None, lambda lsn: lsn) is not None
    assert all(not index.tail for index in store.indexes.values()) and not store.heads
    check(model)


def test_sealing_waits_for_enough_rows_or_for_one_that_is_overdue() -> None:
    store = TableStore(table())
    for number in range(10):
        store.insert(pack(number + 1, 0), (number, None, None, None), pack(number + 1, 0))
    assert store.seal(100, None, lambda lsn: lsn, at_least=11) is None
    assert store.seal(100, None, lambda lsn: lsn, pack(5, 0), overdue=pack(1, 0) - 1) is None
    segment = store.seal(100, None, lambda lsn: lsn, pack(5, 0), overdue=pack(1, 0))
    assert segment is not None and segment.count == 5 and len(store.heads) == 5


def test_a_row_that_is_nowhere_is_an_alarm_and_not_a_silent_insert() -> None:
    with pytest.raises(AssertionError, match="nowhere"):
        TableStore(table()).update(pack(1, 0), (1, None, None, None), pack(2, 0), keep=False)
