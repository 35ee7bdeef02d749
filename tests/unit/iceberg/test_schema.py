"""SQL tables as Iceberg schemas, and values through files and back."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit.chassis.iceberg.file_io import OrbitFileIO
from orbit.chassis.iceberg.schema import (
    ROW_ID_FIELD,
    file_schema,
    from_file,
    iceberg_schema,
    interval_text,
    interval_value,
    same_fields,
    to_file,
)
from orbit.chassis.iceberg.warehouse import Warehouse, WarehouseSettings
from orbit.kernel.errors import NotSupported
from orbit.kernel.ids import ROW_ID_COLUMN
from orbit.kernel.schema import Column
from orbit.kernel.types import Oid, SqlType, arrow_type
from tests.fixtures.fix_moves import Version, all_types_row, all_types_table, extreme_rows, make_table, to_batch


def test_all_types_survive_the_file_form() -> None:
    table = all_types_table()
    schema = file_schema(iceberg_schema(table), table)
    rows = [*[all_types_row(n) for n in range(20)], *extreme_rows(100)]
    batch = to_batch(table, [Version(number, 1, row, 1) for number, row in enumerate(rows)])
    written = to_file(batch, table, schema)
    assert written.schema.names[-1] == ROW_ID_COLUMN
    for at, column in enumerate(table.columns):
        back = from_file(written.column(at), column)
        assert back.type == arrow_type(column.type)
        assert back.combine_chunks().equals(batch.column(column.name)), column.name


def test_dictionaries_and_views_are_written_plain() -> None:
    table = make_table()
    schema = file_schema(iceberg_schema(table), table)
    batch = pa.RecordBatch.from_pydict(
        {
            ROW_ID_COLUMN: pa.array([1, 2, 3], pa.int64()),
            "id": pa.array([1, 2, 3], pa.int64()),
            "name": pa.array(["a", "b", "a"]).dictionary_encode(),
            "amount": pa.array([1, 2, None], pa.decimal64(12, 2)),
        }
    )
    assert to_file(batch, table, schema).column("name").to_pylist() == ["a", "b", "a"]
    views = batch.set_column(2, "name", batch.column("name").cast(pa.string()).cast(pa.string_view()))
    assert to_file(views, table, schema).schema == schema


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(10**15), 10**15))
def test_intervals_come_back(months: int, days: int, micros: int) -> None:
    value = pa.MonthDayNano([months, days, micros * 1000])
    assert interval_value(interval_text(value)) == value


def test_a_column_that_came_later_is_optional_in_files_that_lack_it() -> None:
    table = make_table()
    before = iceberg_schema(table)
    added = Column(number=9, name="late", type=SqlType(Oid.INT4), nullable=False)
    after = iceberg_schema(msgspec.structs.replace(table, columns=(*table.columns, added)), before)
    required = {field.field_id: field.required for field in after.fields}
    assert required == {1: True, 2: False, 4: False, 9: False, ROW_ID_FIELD: True}
    assert not same_fields(before, after)
    assert same_fields(before, iceberg_schema(table, before))


def test_the_row_id_column_belongs_to_the_engine() -> None:
    table = make_table(columns=[Column(number=1, name=ROW_ID_COLUMN, type=SqlType(Oid.INT8))])
    with pytest.raises(NotSupported, match=ROW_ID_COLUMN):
        iceberg_schema(table)


def test_settings_never_show_secrets() -> None:
    settings = WarehouseSettings("/lake", "postgresql", "postgresql://me:secret@db/lake", token="secret")
    assert "secret" not in repr(settings)
    warehouse = Warehouse(settings)
    assert "secret" not in warehouse.catalog_shown and "db/lake" in warehouse.catalog_shown


@pytest.mark.parametrize("location", ["/data/a#b", "/data/100%", "s3://bucket/what?"])
def test_locations_that_readers_disagree_on_are_refused(location: str) -> None:
    with pytest.raises(NotSupported, match="disagree"):
        Warehouse(WarehouseSettings(location, "sqlite", "sqlite:////tmp/unused.db"))


def test_azure_locations_as_java_writes_them_reach_pyarrow_as_container_and_path() -> None:
    parse = OrbitFileIO.parse_location
    assert parse("abfss://lake@account.dfs.core.windows.net/w/t")[2] == "lake/w/t"
    assert parse("abfss://lake/w/t")[2] == "lake/w/t"
    assert parse("s3://bucket/w@x/t") == ("s3", "bucket", "bucket/w@x/t")
    assert parse("file:///data/ware house/t") == ("file", "", "/data/ware house/t")
