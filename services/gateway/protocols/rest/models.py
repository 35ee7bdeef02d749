"""The JSON bodies of the REST door, as OpenAPI shows them.

Owns shapes and examples. Answers with rows are written by `wire`, in these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """A body whose unknown members are refused."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Model):
    code: str = Field(description="SQLSTATE", examples=["42P01"])
    message: str = Field(examples=['relation "flights" does not exist'])
    detail: str | None = None
    hint: str | None = None


class ErrorBody(Model):
    error: ErrorDetail


class Health(BaseModel):
    """The state that this process observes. `healthy` decides the status: 200 or 503."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"healthy": True}]})

    healthy: bool


class TableSummary(Model):
    schema_name: str = Field(alias="schema", examples=["public"])
    name: str = Field(examples=["flights"])
    type: Literal["table", "view"]


class Tables(Model):
    tables: list[TableSummary]


class ColumnInfo(Model):
    name: str = Field(examples=["carrier"])
    type: str = Field(description="As PostgreSQL's format_type prints it", examples=["character varying(2)"])


class TableColumn(ColumnInfo):
    nullable: bool
    default: str | None = Field(description="SQL expression")


class Table(Model):
    schema_name: str = Field(alias="schema", examples=["public"])
    name: str = Field(examples=["airlines"])
    columns: list[TableColumn]
    primary_key: list[str] = Field(examples=[["carrier"]])


class NewColumn(Model):
    name: str = Field(examples=["carrier"])
    type: str = Field(examples=["varchar(2)"])
    nullable: bool = True
    default: Any = Field(default=None, description="A string, number, true, false or null")


class NewTable(Model):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "airlines",
                    "columns": [{"name": "carrier", "type": "varchar(2)"}, {"name": "name", "type": "text"}],
                    "primary_key": ["carrier"],
                }
            ]
        },
    )

    name: str = Field(description="name, schema.name or quoted parts")
    columns: list[NewColumn] = Field(min_length=1, max_length=1600)
    primary_key: list[str] = []


Row = dict[str, Any]


class Rows(Model):
    rows: list[Row] = Field(examples=[[{"carrier": "AA", "name": "American Airlines Inc."}]])


class Page(Rows):
    columns: list[ColumnInfo]
    limit: int = Field(examples=[100])
    offset: int = Field(examples=[0])
    more: bool = Field(description="Whether rows follow behind this page")


class SqlStatement(Model):
    sql: str = Field(description="One statement", examples=["SELECT carrier, name FROM airlines WHERE carrier = $1"])
    params: list[Any] = Field(default=[], max_length=65_535, examples=[["AA"]])


class SqlRequest(SqlStatement):
    format: Literal["json", "ndjson", "csv", "arrow"] = "json"


class SqlResult(Model):
    columns: list[ColumnInfo]
    rows: list[list[Any]] = Field(examples=[[["AA", "American Airlines Inc."]]])
    tag: str = Field(description="PostgreSQL's command tag", examples=["SELECT 1"])
    row_count: int = Field(description="Rows returned or changed", examples=[1])


class TransactionRequest(Model):
    statements: list[SqlStatement] = Field(min_length=1)
    isolation: Literal["read committed", "repeatable read", "serializable"] | None = Field(
        default=None, description="The server's default when absent"
    )


class TransactionResult(Model):
    results: list[SqlResult]


class Token(Model):
    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(description="Seconds", examples=[3600])
