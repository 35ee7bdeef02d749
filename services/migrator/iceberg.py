"""The lake as a move sees it: which Iceberg table is the claim's, what is in it, and the one commit of a move.

Owns the meaning of snapshot properties, the identity of tables across renames, and what to do with snapshots that no
COLD_COMMIT names. Everything blocks; callers use worker threads.

The claim says what the engine reads now (`Claim.cold`), and the log is the truth:

    history of the table's main branch, newest first:   [ newer .. ] [ cold ] [ older .. ]
    newer holds this move's snapshot       it was published before: use it
    newer holds ended moves' snapshots     orphans: the branch is set back to `cold`
    newer holds a later move's             this migrator has been overtaken: stop
    newer holds a foreign rewrite          the same rows in other files: build on it
    newer holds any other foreign change   stop, a person must look

A table of the right name and the wrong content is set aside under another name, never altered: the log knows what it
wants, but somebody may still want what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from orbit.chassis.iceberg.files import (
    DataFile,
    DataFileWriter,
    PlannedFile,
    overlapping,
    plan_snapshot,
)
from orbit.chassis.iceberg.schema import ROW_ID_FIELD, field_id, file_schema, iceberg_schema
from orbit.chassis.iceberg.table import CommitConflict, IcebergTable, SnapshotNote
from orbit.chassis.iceberg.warehouse import Identifier, Warehouse
from orbit.kernel.errors import OrbitError
from services.migrator.copy import TARGET_FILE_BYTES, Copied, Copier, RowIds
from services.storage.client import Claim, SnapshotRef

log = structlog.get_logger()

MOVE_ID: Final = "orbit.move-id"
SHARD: Final = "orbit.shard"
TIMELINE: Final = "orbit.timeline"
AS_OF: Final = "orbit.as-of-lsn"
TABLE_ID: Final = "orbit.table-id"
STORAGE_ID: Final = "orbit.storage-id"
COMMIT_ATTEMPTS: Final = 4


class LakeConflict(OrbitError):
    """The Iceberg table is not what the log says it must be; the message tells how."""

    default_sqlstate = "58030"


@dataclass(frozen=True, slots=True)
class Target:
    """The Iceberg table that a move writes to, and the Arrow schema of its files."""

    table: IcebergTable
    schema: pa.Schema


class Lake:
    """One warehouse. Methods raise StoreUnavailable (wait and try again) or LakeConflict (a person must look)."""

    def __init__(self, warehouse: Warehouse, *, target_bytes: int = TARGET_FILE_BYTES) -> None:
        self._warehouse = warehouse
        self._target_bytes = target_bytes

    def probe(self) -> None:
        """Raise StoreUnavailable unless catalog and store answer."""
        self._warehouse.probe()

    def published(self, claim: Claim) -> SnapshotRef | None:
        """Return this move's snapshot if an earlier attempt has committed it."""
        table = self._warehouse.table(_identifier(claim))
        return None if table is None else _own_snapshot(table, claim)

    def target(self, claim: Claim) -> Target:
        """Find or make the claim's table and bring its schema up to date."""
        for _ in range(COMMIT_ATTEMPTS):
            try:
                table = self._resolve(claim)
                if table is None:
                    continue
                fresh = not table.metadata.snapshots
                table.evolve(iceberg_schema(claim.table, None if fresh else table.schema))
            except CommitConflict:
                continue
            return Target(table, file_schema(table.schema, claim.table))
        raise LakeConflict(f"{self._warehouse.catalog_shown}: {_identifier(claim)} keeps changing under this move")

    def copier(self, claim: Claim, target: Target) -> Copier:
        def open_file(name: str) -> DataFileWriter:
            return DataFileWriter(self._warehouse, target.table, target.schema, f"{_folder(claim)}/{name}")

        return Copier(claim.table, target.schema, open_file, target_bytes=self._target_bytes)

    def publish(self, claim: Claim, copied: Copied) -> SnapshotRef:
        """Commit the move's one snapshot, or return the one that another attempt has committed first."""
        for _ in range(COMMIT_ATTEMPTS):
            target = self.target(claim)
            table = target.table
            if (found := _own_snapshot(table, claim)) is not None:
                return found
            self._settle(table, claim)
            removed, rewritten = self._superseded(claim, target, copied.row_ids)
            try:
                snapshot_id = table.replace([*copied.files, *rewritten], removed, _properties(claim))
                return SnapshotRef(table.metadata_location, snapshot_id)
            except CommitConflict as conflict:
                log.info("iceberg commit lost a race", move=claim.move_id.hex(), reason=str(conflict))
                for file in rewritten:
                    self._warehouse.delete(file.file_path)
        if (ref := self.published(claim)) is not None:
            # A commit can land and be reported as lost when the connection is cut and the request sent again.
            return ref
        raise LakeConflict(f"{self._warehouse.catalog_shown}: {_identifier(claim)} keeps changing under this move")

    def delete(self, location: str) -> None:
        self._warehouse.delete(location)

    def sweep(self, claim: Claim, ref: SnapshotRef) -> int:
        """Delete what crashed attempts of this move have left. Returns how many files that were.

        Only for a move whose snapshot is published: no other attempt can win any more.
        """
        table = self._warehouse.table(_identifier(claim))
        if table is None:
            return 0
        folder = self._warehouse.data_location(table, _folder(claim))
        used = {file.location for file in plan_snapshot(self._warehouse, ref.metadata_location, ref.snapshot_id)}
        left = [location for location in self._warehouse.list_folder(folder) if location not in used]
        for location in left:
            self._warehouse.delete(location)
        return len(left)

    # Which table.

    def _resolve(self, claim: Claim) -> IcebergTable | None:
        """Return the claim's table, made or renamed where need be; None when it changed while we looked."""
        identifier = _identifier(claim)
        table = self._warehouse.table(identifier)
        if table is not None:
            if _belongs(table, claim):
                return table
            self._set_aside(table, claim)
        if claim.cold is not None:
            for other in self._warehouse.identifiers():
                found = self._warehouse.table(other)
                if found is not None and _belongs(found, claim):
                    log.info("iceberg table renamed", old=".".join(other), new=".".join(identifier))
                    return self._warehouse.rename(other, identifier)
            log.warning("catalog has lost a table, registering it again", table=".".join(identifier))
            return self._warehouse.register(identifier, claim.cold.metadata_location)
        properties = {
            TABLE_ID: str(claim.table.id),
            STORAGE_ID: str(claim.table.storage_id),
            SHARD: str(claim.shard),
            TIMELINE: str(claim.timeline),
        }
        folder = f"{_path(claim.table.schema)}/{_path(claim.table.name)}-{claim.move_id.hex()[-12:]}"
        made = self._warehouse.create(identifier, iceberg_schema(claim.table), folder, properties)
        return made if made is not None and _belongs(made, claim) else None

    def _set_aside(self, table: IcebergTable, claim: Claim) -> None:
        namespace, name = table.identifier
        later = [note for note in table.history() if _is_later(note, claim)]
        if later and table.properties.get(STORAGE_ID) == str(claim.table.storage_id):
            raise LakeConflict(
                f"{self._warehouse.catalog_shown}: {namespace}.{name} has snapshots of later moves than this one",
                hint="Two engines must not share a warehouse. Give this one its own prefix and catalog.",
            )
        aside = (namespace, f"{name}__set_aside_{table.metadata.table_uuid.hex[:8]}")
        log.warning("iceberg table of another history set aside", table=f"{namespace}.{name}", name=aside[1])
        self._warehouse.rename(table.identifier, aside)

    # What is in it.

    def _settle(self, table: IcebergTable, claim: Claim) -> None:
        """Make the current snapshot one that this move may build on. Raises LakeConflict."""
        cold = None if claim.cold is None else claim.cold.snapshot_id
        newer = _newer(table, cold)
        if newer is None:
            raise LakeConflict(f"{_shown(table)}: snapshot {cold}, which the engine reads, is not in its main branch")
        if any(_is_later(note, claim) for note in newer):
            raise LakeConflict(f"{_shown(table)}: a later move has committed; this one has been overtaken")
        foreign = [note for note in newer if MOVE_ID not in note.properties]
        if any(note.operation != "replace" for note in foreign) or (foreign and len(foreign) != len(newer)):
            numbers = ", ".join(str(note.snapshot_id) for note in foreign)
            raise LakeConflict(
                f"{_shown(table)}: snapshots {numbers} are not this engine's",
                hint=f"Set the main branch back to {cold}; rows are changed through SQL only.",
            )
        if newer and not foreign:
            log.warning("orphan snapshots of ended moves rewound", table=_shown(table), count=len(newer))
            try:
                table.rewind(cold)
            except CommitConflict as conflict:
                raise LakeConflict(f"{_shown(table)} changed while orphans were rewound: {conflict}") from conflict

    def _superseded(self, claim: Claim, target: Target, row_ids: RowIds) -> tuple[list[DataFile], list[DataFile]]:
        """Return the files that hold older images of the moved rows, and their replacements without them."""
        current = target.table.snapshot_id
        if current is None or not len(row_ids):
            return [], []
        files = plan_snapshot(self._warehouse, target.table.metadata_location, current)
        removed: list[DataFile] = []
        rewritten: list[DataFile] = []
        for file in overlapping(files, int(row_ids[0]), int(row_ids[-1])):
            if not self._holds_any(file, row_ids):
                continue
            removed.append(file.data_file)
            copier = self.copier(claim, target)
            for rows in self._kept_rows(file, target.schema, row_ids):
                copier.add_rows(rows)
            rewritten.extend(copier.finish().files)
        return removed, rewritten

    def _holds_any(self, file: PlannedFile, row_ids: RowIds) -> bool:
        return any(
            _among(rows.column(0).to_numpy(), row_ids).any() for rows, _ in self._row_groups(file, only=ROW_ID_FIELD)
        )

    def _kept_rows(self, file: PlannedFile, schema: pa.Schema, row_ids: RowIds) -> Iterator[pa.Table]:
        """Yield the rows of a file that the move does not replace, in today's schema, a row group at a time."""
        for rows, names in self._row_groups(file):
            gone = _among(rows.column(names[ROW_ID_FIELD]).to_numpy(), row_ids)
            kept = rows.filter(pa.array(~gone))
            columns = [
                kept.column(names[field_id(field)]).cast(field.type)
                if field_id(field) in names
                else pa.nulls(kept.num_rows, field.type)
                for field in schema
            ]
            yield pa.Table.from_arrays(columns, schema=schema)

    def _row_groups(self, file: PlannedFile, only: int | None = None) -> Iterator[tuple[pa.Table, dict[int, str]]]:
        """Yield each row group with the file's column names by field id."""
        with self._warehouse.failures():
            with pq.ParquetFile(self._warehouse.io.new_input(file.location).open()) as source:
                names = {field_id(field): field.name for field in source.schema_arrow}
                columns = None if only is None else [names[only]]
                for group in range(source.metadata.num_row_groups):
                    yield source.read_row_group(group, columns=columns), names


def _identifier(claim: Claim) -> Identifier:
    return claim.table.schema, claim.table.name


def _folder(claim: Claim) -> str:
    return claim.move_id.hex()


def _path(name: str) -> str:
    """Return a name as one path segment that every store takes."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _shown(table: IcebergTable) -> str:
    return f"iceberg table {'.'.join(table.identifier)}"


def _properties(claim: Claim) -> dict[str, str]:
    return {
        MOVE_ID: claim.move_id.hex(),
        SHARD: str(claim.shard),
        TIMELINE: str(claim.timeline),
        AS_OF: str(claim.as_of),
        STORAGE_ID: str(claim.table.storage_id),
    }


def _belongs(table: IcebergTable, claim: Claim) -> bool:
    """Return whether this is the table that the log means."""
    if table.properties.get(STORAGE_ID) != str(claim.table.storage_id):
        return False
    if claim.cold is not None:
        return table.metadata.snapshot_by_id(claim.cold.snapshot_id) is not None
    return table.snapshot_id is None or _own_snapshot(table, claim) is not None


def _own_snapshot(table: IcebergTable, claim: Claim) -> SnapshotRef | None:
    wanted = claim.move_id.hex()
    for note in table.history():
        if note.properties.get(MOVE_ID) == wanted:
            return SnapshotRef(table.metadata_location, note.snapshot_id)
    return None


def _newer(table: IcebergTable, cold: int | None) -> list[SnapshotNote] | None:
    """Return the snapshots after `cold`, newest first; None when `cold` is not among the ancestors."""
    newer: list[SnapshotNote] = []
    for note in table.history():
        if note.snapshot_id == cold:
            return newer
        newer.append(note)
    return newer if cold is None else None


def _is_later(note: SnapshotNote, claim: Claim) -> bool:
    if MOVE_ID not in note.properties or note.properties[MOVE_ID] == claim.move_id.hex():
        return False
    position = int(note.properties.get(TIMELINE, 0)), int(note.properties.get(AS_OF, 0))
    return position > (claim.timeline, claim.as_of)


def _among(found: RowIds, wanted: RowIds) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Return which of `found` are in the sorted, non-empty `wanted`."""
    at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
    result: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = wanted[at] == found
    return result
