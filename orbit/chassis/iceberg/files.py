"""Data files: which ones a snapshot has, and writing new ones.

Owns the plan of a snapshot (files with their row id bounds, from manifests alone) and a streaming Parquet writer that
holds one row group in memory. Readers of the files' contents are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.conversions import from_bytes
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    MetricModeTypes,
    MetricsMode,
    StatisticsCollector,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent
from pyiceberg.schema import sanitize_column_names
from pyiceberg.serializers import FromInputFile
from pyiceberg.typedef import Record
from pyiceberg.types import LongType

from orbit.chassis.iceberg.schema import ROW_ID_FIELD
from orbit.chassis.iceberg.table import IcebergTable
from orbit.chassis.iceberg.warehouse import Warehouse
from orbit.kernel.errors import NotSupported, StoreUnavailable

__all__ = ["ROW_GROUP_ROWS", "DataFile", "DataFileWriter", "PlannedFile", "overlapping", "plan_snapshot"]

ROW_GROUP_ROWS: Final = 65_536
"""One segment's worth: what a reader asks for is one row group or two."""

COMPRESSION_LEVEL: Final = 3
_LAST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One data file of a snapshot. Row id bounds are inclusive; a foreign file without bounds has the widest."""

    location: str
    size_bytes: int
    rows: int
    first_row_id: int
    last_row_id: int
    data_file: DataFile


def plan_snapshot(warehouse: Warehouse, metadata_location: str, snapshot_id: int) -> list[PlannedFile]:
    """Return the data files of a snapshot, read through its metadata file: no catalog is asked.

    Raises StoreUnavailable, also when the snapshot has been expired; NotSupported for merge-on-read deletes.
    """
    with warehouse.failures():
        metadata = FromInputFile.table_metadata(warehouse.io.new_input(metadata_location))
    snapshot = metadata.snapshot_by_id(snapshot_id)
    if snapshot is None:
        raise StoreUnavailable(f"{warehouse.shown}: snapshot {snapshot_id} is not in {metadata_location}")
    planned: list[PlannedFile] = []
    with warehouse.failures():
        for manifest in snapshot.manifests(warehouse.io):
            if manifest.content != ManifestContent.DATA:
                raise NotSupported(f"{warehouse.shown}: merge-on-read deletes in {metadata_location}")
            planned.extend(_planned(entry.data_file) for entry in manifest.fetch_manifest_entry(warehouse.io))
    return planned


def _planned(data_file: DataFile) -> PlannedFile:
    lower = (data_file.lower_bounds or {}).get(ROW_ID_FIELD)
    upper = (data_file.upper_bounds or {}).get(ROW_ID_FIELD)
    return PlannedFile(
        data_file.file_path,
        data_file.file_size_in_bytes,
        data_file.record_count,
        0 if lower is None else int(from_bytes(LongType(), lower)),
        _LAST if upper is None else int(from_bytes(LongType(), upper)),
        data_file,
    )


class DataFileWriter:
    """Writes one Parquet file, row group by row group. Not thread-safe; `finish` or `discard` must be called."""

    def __init__(self, warehouse: Warehouse, table: IcebergTable, schema: pa.Schema, name: str) -> None:
        self._warehouse = warehouse
        self._table = table
        self.location = warehouse.data_location(table, name)
        with warehouse.failures():
            self._sink: Any = self._io.new_output(self.location).create(overwrite=True)
            self._writer = pq.ParquetWriter(
                self._sink,
                schema,
                compression="zstd",
                compression_level=COMPRESSION_LEVEL,
                # Iceberg wants short decimals as integers; readers must not find Arrow's own schema beside Iceberg's.
                store_decimal_as_integer=True,
                store_schema=False,
                write_page_checksum=True,
            )

    @property
    def _io(self) -> FileIO:
        return self._warehouse.io

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return int(self._sink.tell())

    def write(self, rows: pa.Table) -> None:
        with self._warehouse.failures():
            self._writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)

    def finish(self) -> DataFile:
        """Close the file and return its manifest entry."""
        with self._warehouse.failures():
            self._writer.close()
            size = self.size_bytes
            self._sink.close()
        schema = sanitize_column_names(self._table.schema)
        metadata = self._writer.writer.metadata
        statistics = data_file_statistics_from_parquet_metadata(
            metadata,
            _representable(metadata, compute_statistics_plan(schema, self._table.properties)),
            parquet_path_to_id_mapping(schema),
        )
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.location,
            file_format=FileFormat.PARQUET,
            partition=Record(),
            file_size_in_bytes=size,
            sort_order_id=None,
            spec_id=self._table.metadata.default_spec_id,
            equality_ids=None,
            key_metadata=None,
            **statistics.to_serialized_dict(),
        )

    def discard(self) -> None:
        """Give the file up and delete what may be there of it. Raises StoreUnavailable when that fails."""
        with self._warehouse.failures():
            if (discard := getattr(self._sink, "discard", None)) is not None:
                discard()
            elif not self._sink.closed:
                self._sink.close()
        self._warehouse.delete(self.location)


def _representable(metadata: pq.FileMetaData, plan: dict[int, StatisticsCollector]) -> dict[int, StatisticsCollector]:
    """Return the statistics plan without bounds for columns whose bounds Python cannot hold.

    PostgreSQL's infinity and its years beyond 9999 are valid dates in Parquet and in Iceberg, not in `datetime`.
    """
    fields = list(plan)
    checked = dict(plan)
    for at in range(metadata.num_columns):
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(at).statistics
            try:
                _ = statistics is not None and statistics.has_min_max and (statistics.min, statistics.max)
            except (OverflowError, ValueError):
                field = fields[at]
                checked[field] = replace(plan[field], mode=MetricsMode(MetricModeTypes.COUNTS))
                break
    return checked


def overlapping(files: Sequence[PlannedFile], first: int, last: int) -> list[PlannedFile]:
    """Return the files that may hold a row id in [first, last]."""
    return [file for file in files if file.first_row_id <= last and first <= file.last_row_id]
