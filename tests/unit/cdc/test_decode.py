"""What change events say: values, schema changes, subjects."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from orbit.kernel import records
from orbit.kernel.schema import Catalog, Column, Drop, Put, Role, Table
from orbit.kernel.types import Oid, SqlType
from services.cdc.decode import Event, encode, event_count, events, json_value
from services.cdc.sinks.region import parse_target
from services.cdc.sinks.stream import headers, subject
from services.cdc.source import Commit
from tests.fixtures.fix_moves import all_types_row, all_types_table, extreme_rows
from tests.fixtures.fix_shard import make_table, to_arrow

EMPTY = Catalog({}, 0)
TABLE = make_table(1, "t")
HAS_TABLE = EMPTY.apply([Put(TABLE)])


async def events_of(effects: list[records.Effect], before: Catalog = HAS_TABLE, after: Catalog | None = None) -> Any:
    after = after or before
    commit = Commit(
        1, (7 << 20) + 3, 1_700_000_000_000_001, records.Transaction(b"\x01" * 16, effects), before, after, None
    )
    found = [event async for event in events(commit, None)]  # type: ignore[arg-type]
    assert [event.position for event in found] == list(range(len(found)))
    assert {event.total for event in found} <= {len(found)} and event_count(commit) == len(found)
    return found


async def test_changes_carry_before_after_and_their_place() -> None:
    found = await events_of(
        [
            records.Delete(TABLE.storage_id, 9, [1, "a", "1.50"]),
            records.Update(TABLE.storage_id, 10, [2, "b", None], [2, "c", "2.00"]),
            records.Insert(TABLE.storage_id, [[3, None, "3.10"]]),
        ]
    )
    assert [(event.operation, event.before, event.after) for event in found] == [
        ("delete", {"id": 1, "name": "a", "price": "1.50"}, None),
        ("update", {"id": 2, "name": "b", "price": None}, {"id": 2, "name": "c", "price": "2.00"}),
        ("insert", None, {"id": 3, "name": None, "price": "3.10"}),
    ]
    assert json.loads(encode(found[0])) == {
        "operation": "delete",
        "schema": "public",
        "table": "t",
        "before": {"id": 1, "name": "a", "price": "1.50"},
        "after": None,
        "timeline": 1,
        "lsn": (7 << 20) + 3,
        "transaction": "01" * 16,
        "position": 0,
        "total": 3,
        "commit_time": "2023-11-14T22:13:20.000001+00:00",
        "schema_version": 1,
        "origin": "",
        "images_omitted": False,
    }


async def test_every_type_has_a_json_value_and_a_load_gives_the_same_as_an_insert() -> None:
    table = all_types_table()
    catalog = EMPTY.apply([Put(table)])
    row = all_types_row(7)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(row))
    loaded = records.BulkInsert(table.storage_id, 1, to_arrow([row], table))
    one, two = await events_of([records.Insert(table.storage_id, [plain]), loaded], catalog)
    assert one.after == two.after
    image = json.loads(encode(one))["after"]
    assert image == {
        "id": 7, "flag": False, "small": 93, "whole": 49, "object": 7, "single": 1.75, "double": 7 / 3,
        "price": "0.07", "wide": "0.0000000007", "huge": "0.00007", "free": "0.007",
        "text": "text 7", "var": "v7", "fixed.name": "7   ", "doc": '{"n": 7}',
        "key": "00000000-0000-0000-0000-000000000007", "raw": "\\x00000007", "day": "1970-01-08",
        "hour": "00:00:00.007", "moment": "1970-01-01T00:00:06.999995", "instant": "1970-01-01T00:00:07.000005+00:00",
        "span": image["span"],
    }  # fmt: skip
    assert image["span"].startswith("7 mons -7 days")


async def test_ends_of_ranges_and_nulls_are_json_too() -> None:
    table = all_types_table()
    rows = extreme_rows(1)
    found = await events_of([records.BulkInsert(table.storage_id, 3, to_arrow(rows, table))], EMPTY.apply([Put(table)]))
    nulls, low, high = [json.loads(encode(event))["after"] for event in found]
    assert {value for name, value in nulls.items() if name != "id"} == {None}
    assert (low["day"], low["moment"], low["instant"]) == ("-infinity",) * 3
    assert (high["day"], high["moment"], high["instant"]) == ("infinity",) * 3
    assert (high["single"], high["double"]) == ("Infinity", "-Infinity")


async def test_schema_changes_are_told_before_the_rows_that_use_them() -> None:
    wider = msgspec.structs.replace(
        TABLE, columns=(*TABLE.columns, Column(number=4, name="note", type=SqlType(Oid.TEXT)))
    )
    put = records.CatalogChanged([Put(wider)])
    row = records.Insert(TABLE.storage_id, [[1, "a", "1.00", "n"]])
    changed, inserted = await events_of([put, row], HAS_TABLE, HAS_TABLE.apply([Put(wider)]))
    assert changed.operation == "schema"
    assert [column["name"] for column in changed.before["columns"]] == ["id", "name", "price"]
    assert changed.after["columns"][3] == {"name": "note", "type": "text", "nullable": True, "default": None}
    assert changed.after["primary_key"] == ["id"]
    assert inserted.after["note"] == "n" and inserted.schema_version == HAS_TABLE.version + 1


async def test_create_truncate_and_drop() -> None:
    (created,) = await events_of([records.CatalogChanged([Put(TABLE)])], EMPTY, HAS_TABLE)
    assert (created.operation, created.before) == ("schema", None)
    emptied = msgspec.structs.replace(TABLE, storage_id=999)
    (truncated,) = await events_of([records.CatalogChanged([Put(emptied)])], HAS_TABLE, HAS_TABLE.apply([Put(emptied)]))
    assert (truncated.operation, truncated.table) == ("truncate", "t")
    (dropped,) = await events_of(
        [records.CatalogChanged([Drop(TABLE.id)])], HAS_TABLE, HAS_TABLE.apply([Drop(TABLE.id)])
    )
    assert (dropped.operation, dropped.table, dropped.after) == ("schema", "t", None)


async def test_roles_and_rows_of_a_table_that_went_with_the_transaction_make_no_event() -> None:
    role = Role(id=5, name="alice", verifier="SCRAM-SHA-256$secret")
    assert await events_of([records.CatalogChanged([Put(role)])], HAS_TABLE, HAS_TABLE.apply([Put(role)])) == []
    gone: list[records.Effect] = [
        records.CatalogChanged([Drop(TABLE.id)]),
        records.Insert(TABLE.storage_id, [[1, "a", None]]),
    ]
    (dropped,) = await events_of(gone, HAS_TABLE, HAS_TABLE.apply([Drop(TABLE.id)]))
    assert dropped.operation == "schema"


async def test_a_grant_changes_no_definition() -> None:
    granted: Table = msgspec.structs.replace(TABLE, grants={"alice": ("SELECT",)})
    assert await events_of([records.CatalogChanged([Put(granted)])], HAS_TABLE, HAS_TABLE.apply([Put(granted)])) == []


def test_subjects_keep_strange_names_apart() -> None:
    assert subject("orbit.cdc.local", "public", "flights") == b"orbit.cdc.local.public.flights"
    assert subject("r", "a.b", "c *>%") == b"r.a%2Eb.c%20%2A%3E%25"
    assert subject("r", "s", "é") == b"r.s.%C3%A9"


def test_headers_name_the_event() -> None:
    event = Event("insert", "s", "t", None, None, 2, 77, "", 3, 9, "", 1, "")
    assert b"Nats-Msg-Id: 2-77-3\r\n" in headers(event) and b"Orbit-Total: 9\r\n" in headers(event)


@pytest.mark.parametrize(
    ("text", "address", "secure"),
    [
        ("west-node-1:7000", "west-node-1:7000", False),
        ("grpc://west-node-1:7000", "west-node-1:7000", False),
        ("grpc://west", "west:7000", False),
        ("https://eu-west-1.orbit.example.com", "eu-west-1.orbit.example.com:443", True),
        ("http://10.0.0.1:80/", "10.0.0.1:80", False),
        ("[::1]:7000", "[::1]:7000", False),
    ],
)
def test_target_addresses(text: str, address: str, secure: bool) -> None:
    assert parse_target(text) == (address, secure)


@pytest.mark.parametrize("text", ["nats://x:1", "grpc://", "grpc://x:7000/path", "ftp://x"])
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="replication target"):
        parse_target(text)


def test_decimals_are_exact() -> None:
    as_json = json_value(Oid.NUMERIC)
    assert as_json is not None and as_json(Decimal("1E+3")) == "1000" and as_json(Decimal("NaN")) == "NaN"
