"""One Iceberg table as loaded at one moment: its history, and commits that assert what they build on.

Owns no policy. A commit whose parent is no longer the current snapshot raises `CommitConflict`; nothing is retried
here, because only the caller knows whether what came in between changes what it wants to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table as PyIcebergTable
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AssertCurrentSchemaId,
    AssertRefSnapshotId,
    RemoveSnapshotRefUpdate,
    SetCurrentSchemaUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from orbit.chassis.iceberg.schema import same_fields

NO_RETRIES: Final = {"commit.retry.num-retries": "0"}
Failures = Callable[[], AbstractContextManager[None]]


class CommitConflict(Exception):
    """Somebody else committed to the table first. Load it again and look at what they did."""


@dataclass(frozen=True, slots=True)
class SnapshotNote:
    """One snapshot of a table's history. `properties` are what its committer wrote into the summary."""

    snapshot_id: int
    operation: str
    properties: dict[str, str]


class IcebergTable:
    """A table at one metadata file. Commits move this object on to the metadata that they made."""

    def __init__(self, table: PyIcebergTable, failures: Failures) -> None:
        self._table = table
        self._failures = failures

    @property
    def metadata(self) -> TableMetadata:
        return self._table.metadata

    @property
    def metadata_location(self) -> str:
        return self._table.metadata_location

    @property
    def identifier(self) -> tuple[str, str]:
        name = self._table.name()
        return str(name[-2]), str(name[-1])

    @property
    def properties(self) -> dict[str, str]:
        return self.metadata.properties

    @property
    def schema(self) -> Schema:
        return self.metadata.schema()

    @property
    def io(self) -> FileIO:
        return self._table.io

    @property
    def snapshot_id(self) -> int | None:
        """The current snapshot, None for an empty table."""
        current = self.metadata.current_snapshot()
        return None if current is None else current.snapshot_id

    def history(self) -> list[SnapshotNote]:
        """Return the current snapshot and its ancestors, newest first."""
        notes = []
        snapshot = self.metadata.current_snapshot()
        while snapshot is not None:
            notes.append(_note(snapshot))
            parent = snapshot.parent_snapshot_id
            snapshot = None if parent is None else self.metadata.snapshot_by_id(parent)
        return notes

    def evolve(self, schema: Schema) -> None:
        """Make `schema` current, field ids as given. Does nothing when it is so already. Raises CommitConflict."""
        if same_fields(self.schema, schema):
            return
        current_id = self.metadata.current_schema_id
        known = next((s for s in self.metadata.schemas if same_fields(s, schema)), None)
        updates: tuple[TableUpdate, ...]
        if known is not None:
            updates = (SetCurrentSchemaUpdate(schema_id=known.schema_id),)
        else:
            new_id = max(s.schema_id for s in self.metadata.schemas) + 1
            numbered = schema.model_copy(update={"schema_id": new_id})
            updates = (AddSchemaUpdate(schema_=numbered), SetCurrentSchemaUpdate(schema_id=-1))
        self._commit((AssertCurrentSchemaId(current_schema_id=current_id),), updates)

    def replace(self, added: Sequence[DataFile], removed: Sequence[DataFile], properties: dict[str, str]) -> int:
        """Commit one snapshot on top of the current one and return its id. Raises CommitConflict."""
        # PyIceberg would retry on top of whatever it finds; these properties stay in this object.
        self._table.metadata = self.metadata.model_copy(update={"properties": {**self.properties, **NO_RETRIES}})
        with self._failures():
            transaction = self._table.transaction()
            try:
                update = transaction.update_snapshot(snapshot_properties=properties)
                with update.overwrite() if removed else update.merge_append() as snapshot:
                    for data_file in added:
                        snapshot.append_data_file(data_file)
                    for data_file in removed:
                        snapshot.delete_data_file(data_file)
                transaction.commit_transaction()
            except CommitFailedException as error:
                raise CommitConflict(str(error)) from error
        made = self.snapshot_id
        assert made is not None
        return made

    def rewind(self, snapshot_id: int | None) -> None:
        """Make an ancestor (None: no snapshot at all) current again. Raises CommitConflict."""
        updates: tuple[TableUpdate, ...]
        if snapshot_id is None:
            updates = (RemoveSnapshotRefUpdate(ref_name=MAIN_BRANCH),)
        else:
            updates = (
                SetSnapshotRefUpdate(
                    snapshot_id=snapshot_id,
                    ref_name=MAIN_BRANCH,
                    type=SnapshotRefType.BRANCH,
                    max_ref_age_ms=None,
                    max_snapshot_age_ms=None,
                    min_snapshots_to_keep=None,
                ),
            )
        self._commit((AssertRefSnapshotId(snapshot_id=self.snapshot_id, ref=MAIN_BRANCH),), updates)

    def _commit(self, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]) -> None:
        with self._failures():
            try:
                answer = self._table.catalog.commit_table(self._table, requirements, updates)
            except CommitFailedException as error:
                raise CommitConflict(str(error)) from error
        self._table.metadata = answer.metadata
        self._table.metadata_location = answer.metadata_location


def _note(snapshot: Snapshot) -> SnapshotNote:
    summary = snapshot.summary
    if summary is None:
        return SnapshotNote(snapshot.snapshot_id, "", {})
    return SnapshotNote(snapshot.snapshot_id, summary.operation.value, dict(summary.additional_properties))
