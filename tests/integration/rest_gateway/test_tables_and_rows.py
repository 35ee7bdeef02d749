"""Tables and rows over REST, as a user sees them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the SQLSTATE of an error, whose body has exactly the promised shape."""
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message", "detail", "hint"}
    return response.status_code, body["error"]["code"]


async def test_a_table_is_created_described_listed_and_dropped(client: httpx.AsyncClient, airlines: None) -> None:
    described = (await client.get("/tables/airlines")).json()
    assert described == {
        "schema": "public",
        "name": "airlines",
        "columns": [
            {"name": "carrier", "type": "character varying(2)", "nullable": False, "default": None},
            {"name": "name", "type": "text", "nullable": False, "default": None},
            {"name": "fleet", "type": "integer", "nullable": True, "default": None},
            {"name": "active", "type": "boolean", "nullable": True, "default": "true"},
        ],
        "primary_key": ["carrier"],
    }
    tables = (await client.get("/tables")).json()["tables"]
    assert {"schema": "public", "name": "airlines", "type": "table"} in tables
    assert {"schema": "redis", "name": "keys", "type": "table"} in tables
    assert code_of(
        await client.post("/tables", json={"name": "airlines", "columns": [{"name": "a", "type": "int"}]})
    ) == (
        409,
        "42P07",
    )
    assert (await client.delete("/tables/airlines")).status_code == 204
    assert code_of(await client.get("/tables/airlines")) == (404, "42P01")
    assert code_of(await client.delete("/tables/airlines")) == (404, "42P01")


async def rows_of(client: httpx.AsyncClient, params: str) -> list[Any]:
    response = await client.get(f"/tables/airlines/rows?{params}")
    assert response.status_code == 200, response.text
    return [row["carrier"] for row in response.json()["rows"]]


FILTERS = [
    ("", ["AA", "B6", "ZZ"]),
    ("carrier=eq.AA", ["AA"]),
    ("carrier=neq.AA", ["B6", "ZZ"]),
    ("fleet=lt.900", ["B6"]),
    ("fleet=lte.900", ["AA", "B6"]),
    ("fleet=gt.200", ["AA"]),
    ("fleet=gte.200&fleet=lt.900", ["B6"]),
    ("name=like.%25e%25", ["AA", "B6", "ZZ"]),
    ("name=like.J%25", ["B6"]),
    ("carrier=in.(AA,ZZ)", ["AA", "ZZ"]),
    ('name=in.(American,"Zed\'s ""Air""")', ["AA", "ZZ"]),
    ("fleet=is.null", ["ZZ"]),
    ("fleet=is.not_null", ["AA", "B6"]),
    ("active=is.false", ["ZZ"]),
    ("order=carrier.desc", ["ZZ", "B6", "AA"]),
    ("order=fleet.desc.nullslast,carrier", ["AA", "B6", "ZZ"]),
    ("order=fleet.nullsfirst", ["ZZ", "B6", "AA"]),
    ("order=carrier&limit=1&offset=1", ["B6"]),
    ("limit=0", []),
]


async def test_filters(client: httpx.AsyncClient, airlines: None) -> None:
    for params, carriers in FILTERS:
        assert await rows_of(client, params) == carriers, params


async def test_a_page_tells_its_columns_and_whether_more_follow(client: httpx.AsyncClient, airlines: None) -> None:
    page = (await client.get("/tables/airlines/rows?select=fleet,carrier&order=carrier&limit=2")).json()
    assert page == {
        "columns": [{"name": "fleet", "type": "integer"}, {"name": "carrier", "type": "character varying(2)"}],
        "rows": [{"fleet": 900, "carrier": "AA"}, {"fleet": 200, "carrier": "B6"}],
        "limit": 2,
        "offset": 0,
        "more": True,
    }
    assert (await client.get("/tables/airlines/rows?limit=3")).json()["more"] is False


BAD_FILTERS = [
    ("carrier=AA", (400, "22023")),
    ("carrier=eq", (400, "22023")),
    ("carrier=drop.x", (400, "22023")),
    ("nope=eq.1", (400, "42703")),
    ("fleet=eq.many", (400, "22P02")),
    ("fleet=is.maybe", (400, "22023")),
    ("carrier=in.AA", (400, "22023")),
    ("order=nope", (400, "42703")),
    ("select=nope", (400, "42703")),
    ("limit=1000000", (400, "22023")),
    ("limit=-1", (400, "22023")),
    ("limit=x", (400, "22023")),
    ("offset=-1", (400, "22023")),
    ('carrier"; DROP TABLE airlines; --=eq.1', (400, "42703")),
    ("order=carrier; DROP TABLE airlines", (400, "42703")),
    ("select=carrier%22%20FROM%20airlines--", (400, "42703")),
    ("carrier=eq.%00", (400, "22021")),
]


async def test_bad_filters(client: httpx.AsyncClient, airlines: None) -> None:
    for params, expected in BAD_FILTERS:
        assert code_of(await client.get(f"/tables/airlines/rows?{params}")) == expected, params
    assert await rows_of(client, "") == ["AA", "B6", "ZZ"]


async def test_one_row_by_its_key(client: httpx.AsyncClient, airlines: None) -> None:
    url = "/tables/airlines/rows/AA"
    row = {"carrier": "AA", "name": "American", "fleet": 900, "active": True}
    assert (await client.get(url)).json() == row
    assert (await client.get(url + "?select=name")).json() == {"name": "American"}
    changed = await client.patch(url, json={"fleet": 901})
    assert changed.status_code == 200 and changed.json() == {**row, "fleet": 901}
    replaced = await client.put(url, json={"name": "American Airlines"})
    assert replaced.json() == {"carrier": "AA", "name": "American Airlines", "fleet": None, "active": True}
    made = await client.put("/tables/airlines/rows/NN", json={"name": "New", "carrier": "NN"})
    assert made.status_code == 200 and made.json()["name"] == "New"
    assert (await client.delete(url)).status_code == 204
    for missing in (client.get(url), client.delete(url), client.patch(url, json={"fleet": 1})):
        assert code_of(await missing) == (404, "02000")
    assert code_of(await client.put("/tables/airlines/rows/NN", json={"carrier": "XX", "name": "n"})) == (400, "22023")
    assert code_of(await client.patch("/tables/airlines/rows/NN", json={})) == (400, "22023")
    assert code_of(await client.patch("/tables/airlines/rows/NN", json={"nope": 1})) == (400, "42703")
    assert code_of(await client.patch("/tables/airlines/rows/NN", json={"name": None})) == (400, "23502")


async def test_keys_of_several_columns_and_awkward_values(client: httpx.AsyncClient) -> None:
    columns = [{"name": "a b", "type": "text"}, {"name": 'q"', "type": "integer"}, {"name": "select", "type": "text"}]
    table = {"name": '"My.Table"', "columns": columns, "primary_key": ["a b", 'q"']}
    assert (await client.post("/tables", json=table)).status_code == 201
    rows = [{"a b": "x,y/z", 'q"': 1, "select": "one"}, {"a b": 'quote "', 'q"': 2, "select": "two"}]
    assert (await client.post('/tables/"My.Table"/rows', json=rows)).json() == {"rows": rows}
    assert (await client.get('/tables/"My.Table"/rows/"x,y%2Fz",1')).json() == rows[0]
    assert (await client.get('/tables/public."My.Table"/rows/"quote%20""",2')).json() == rows[1]
    assert code_of(await client.get('/tables/"My.Table"/rows/x')) == (400, "22023")
    assert code_of(await client.get("/tables/a.b.c/rows/x")) == (400, "42602")
    assert code_of(await client.get("/tables/nowhere.t/rows")) == (404, "42P01")


async def test_many_rows_are_inserted_together_or_not_at_all(client: httpx.AsyncClient, airlines: None) -> None:
    rows = [{"carrier": "N1", "name": "one"}, {"carrier": "AA", "name": "there already"}]
    assert code_of(await client.post("/tables/airlines/rows", json=rows)) == (409, "23505")
    assert code_of(await client.get("/tables/airlines/rows/N1")) == (404, "02000")
    one = await client.post("/tables/airlines/rows", json=rows[0])
    assert one.status_code == 201
    assert one.json() == {"rows": [{"carrier": "N1", "name": "one", "fleet": None, "active": True}]}
    assert code_of(await client.post("/tables/airlines/rows", json=[{"carrier": "toolong", "name": ""}])) == (
        400,
        "22001",
    )
    assert code_of(await client.post("/tables/airlines/rows", json={"carrier": "N2"})) == (400, "23502")
    assert code_of(await client.post("/tables/airlines/rows", json={"fleet": "x", "name": "n"})) == (400, "22P02")
    assert code_of(await client.post("/tables/airlines/rows", json=3)) == (400, "22023")
    assert code_of(await client.post("/tables/airlines/rows", json={"carrier": "N3", "name": ["a"]})) == (400, "22P02")
    assert (await client.post("/tables/airlines/rows", json=[])).json() == {"rows": []}


TYPES: list[tuple[str, str, str]] = [
    # type, JSON that is written, JSON that is read
    ("smallint", "-32768", "-32768"),
    ("integer", "2147483647", "2147483647"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("real", "0.1", "0.1"),
    ("double precision", "1e-300", "1e-300"),
    ("double precision", '"NaN"', '"NaN"'),
    ("boolean", "false", "false"),
    ("numeric", "0.1234567890123456789012345", '"0.1234567890123456789012345"'),
    ("numeric(12,2)", '"3.5"', '"3.50"'),
    ("numeric", "123456789012345678901234567890", '"123456789012345678901234567890"'),
    ("text", '"a\\u0000b"', "error"),
    ("text", '"h\\u00e9 \\"q\\" \\ud83d\\ude00\\n"', '"hé \\"q\\" 😀\\n"'),
    ("text", "12", '"12"'),
    ("char(3)", '"a"', '"a  "'),
    ("bytea", '"\\\\x00ff"', '"\\\\x00ff"'),
    ("date", '"2024-02-29"', '"2024-02-29"'),
    ("timestamp", '"2024-02-29 12:00:00.5"', '"2024-02-29 12:00:00.5"'),
    ("timestamptz", '"2024-02-29T12:00:00Z"', '"2024-02-29 12:00:00+00"'),
    ("time", '"12:30"', '"12:30:00"'),
    ("interval", '"1 day 2 hours"', '"1 day 02:00:00"'),
    ("uuid", '"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"', '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    ("json", '{"a": [1, 2.50, null]}', '{"a":[1,2.50,null]}'),
    ("jsonb", '"text"', '"text"'),
    ("jsonb", "null", "null"),
]


async def test_values_of_every_type(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    for at, (kind, given, read) in enumerate(TYPES):
        columns = [{"name": "id", "type": "int"}, {"name": "v", "type": kind}]
        table = {"name": f"t{at}", "columns": columns, "primary_key": ["id"]}
        assert (await client.post("/tables", json=table)).status_code == 201
        written = await client.post(f"/tables/t{at}/rows", content=f'{{"id":1,"v":{given}}}', headers=headers)
        if read == "error":
            assert code_of(written) == (400, "22021")
            continue
        expected = f'{{"id":1,"v":{read}}}'
        assert written.text == f'{{"rows":[{expected}]}}', kind
        assert (await client.get(f"/tables/t{at}/rows/1")).text == expected, kind


async def test_a_default_is_a_value_never_sql(client: httpx.AsyncClient) -> None:
    evil = "x'); DROP TABLE redis.keys; -- \\' \\"
    columns = [{"name": "id", "type": "int"}, {"name": "v", "type": "text", "default": evil}]
    assert (
        await client.post("/tables", json={"name": "t", "columns": columns, "primary_key": ["id"]})
    ).status_code == 201
    assert (await client.post("/tables/t/rows", json={"id": 1})).json() == {"rows": [{"id": 1, "v": evil}]}
    for kind in ("text; DROP TABLE t", "int)", "serial", "text DEFAULT now()", "numeric(1,2,3)", ""):
        body = {"name": "u", "columns": [{"name": "a", "type": kind}]}
        assert code_of(await client.post("/tables", json=body)) == (404, "42704"), kind
    assert code_of(await client.post("/tables", json={"name": "u", "columns": []})) == (400, "22023")
    body = {"name": "u", "columns": [{"name": "a" * 64, "type": "int"}]}
    assert code_of(await client.post("/tables", json=body)) == (400, "42622")


async def test_a_table_without_a_key_has_no_rows_by_key(client: httpx.AsyncClient) -> None:
    assert (
        await client.post("/tables", json={"name": "t", "columns": [{"name": "a", "type": "int"}]})
    ).status_code == 201
    assert (await client.post("/tables/t/rows", json=[{"a": 1}, {}])).json() == {"rows": [{"a": 1}, {"a": None}]}
    assert code_of(await client.get("/tables/t/rows/1")) == (400, "42P10")
