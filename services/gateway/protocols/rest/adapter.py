"""The FastAPI application of the REST door: routes, authentication, error replies, OpenAPI.

Owns HTTP's side of each route; what a route does is in `service`. Imported by the listener when it starts and
by nothing else: FastAPI and pydantic take 0.4 s to import.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from orbit.kernel.errors import NotSupported, OrbitError
from services.gateway.authentication import Authenticator, InvalidPassword
from services.gateway.protocols.rest import errors, models, query, service
from services.gateway.protocols.rest.errors import BadRequest, status_of
from services.gateway.protocols.rest.limits import RestLimits
from services.gateway.protocols.rest.pool import SessionPool
from services.gateway.protocols.rest.query import TableName
from services.gateway.protocols.rest.stream import MEDIA_TYPES, StreamedAnswer
from services.gateway.protocols.rest.tokens import InvalidToken, TokenSigner, fingerprint
from services.gateway.protocols.rest.wire import parse_json

log = structlog.get_logger()

HTTP_CODES: Final = {400: "22023", 401: "28000", 404: "42704", 405: "0A000", 408: "57014", 413: "54000", 422: "22023"}
"""SQLSTATEs of what HTTP itself refuses."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class Doors:
    """What the routes need."""

    authenticator: Authenticator
    signer: TokenSigner
    pool: SessionPool
    limits: RestLimits
    health: Callable[[], Mapping[str, Any]]


class ExactRequest(Request):
    """A request whose JSON keeps every digit of its numbers, within the limit on depth."""

    async def json(self) -> Any:
        return parse_json(await self.body(), self.app.state.doors.limits.max_json_depth)


class ExactRoute(APIRoute):
    """Reads bodies as `ExactRequest` does, and turns its error into a reply before FastAPI makes its own of it."""

    def get_route_handler(self) -> Handler:
        original = super().get_route_handler()

        async def handle(request: Request) -> Response:
            exact = ExactRequest(request.scope, request.receive)
            if self.body_field is not None:
                parse_json(await exact.body() or b"null", exact.app.state.doors.limits.max_json_depth)
            return await original(exact)

        return handle


_basic = HTTPBasic(auto_error=False, description="The user and password of the database role")
_bearer = HTTPBearer(auto_error=False, description="A token of POST /auth/token")


def doors_of(request: Request) -> Doors:
    doors: Doors = request.app.state.doors
    return doors


async def password_user(request: Request, basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)]) -> str:
    """Return the user of basic authentication. Raises InvalidPassword."""
    if basic is None:
        raise InvalidPassword("a user and password are needed", sqlstate="28000")
    address = request.client.host if request.client is not None else ""
    try:
        await doors_of(request).authenticator.authenticate(basic.username, basic.password, address)
    except InvalidPassword:
        log.info("rest authentication failed", user=basic.username, address=address)
        raise
    return basic.username


async def current_user(
    request: Request,
    basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """Return the user of a token or of basic authentication. Raises InvalidPassword, InvalidToken."""
    if bearer is None:
        return await password_user(request, basic)
    doors = doors_of(request)
    claims = doors.signer.check(bearer.credentials)
    role = await doors.authenticator.credentials(claims.sub)
    if role is None or not role.login or role.verifier is None or fingerprint(role.verifier) != claims.ver:
        raise InvalidToken("the bearer token is no longer valid")
    return claims.sub


User = Annotated[str, Depends(current_user)]
ServingDoors = Annotated[Doors, Depends(doors_of)]


def named_table(
    name: Annotated[str, Path(description="name, schema.name or quoted parts", examples=["flights"])],
) -> TableName:
    return query.table_name(name)


Named = Annotated[TableName, Depends(named_table)]
Key = Annotated[
    str,
    Path(description='The key; values of several columns with commas, quoted where needed: 7,"a,b"', examples=["AA"]),
]

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": models.ErrorBody, "description": "The request cannot be carried out as it is"},
    "5XX": {"model": models.ErrorBody, "description": "The engine cannot carry it out now, or not at all"},
}
router = APIRouter(route_class=ExactRoute, responses=ERRORS)


def raw_json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


@router.get("/health", tags=["service"], response_model=models.Health, responses={503: {"model": models.Health}})
async def health(doors: ServingDoors) -> Response:
    """Tell whether this gateway can serve. Needs no authentication."""
    state = doors.health()
    return raw_json(msgspec.json.encode(dict(state)), 200 if state.get("healthy") else 503)


@router.post("/auth/token", tags=["service"], response_model=models.Token)
async def make_token(user: Annotated[str, Depends(password_user)], doors: ServingDoors) -> models.Token:
    """Exchange a user and password for a bearer token."""
    role = await doors.authenticator.credentials(user)
    if role is None or role.verifier is None:
        raise InvalidPassword("the role is gone", sqlstate="28000")
    return models.Token(access_token=doors.signer.make(user, role.verifier), expires_in=doors.signer.lifetime_s)


@router.get("/tables", tags=["tables"], response_model=models.Tables)
async def get_tables(user: User, doors: ServingDoors) -> Response:
    """List the tables and views."""
    async with doors.pool.session(user) as conversation:
        return raw_json(msgspec.json.encode({"tables": await service.list_tables(conversation)}))


@router.post("/tables", tags=["tables"], status_code=201, response_model=models.Table)
async def create_table(body: models.NewTable, user: User, doors: ServingDoors) -> Response:
    """Create a table."""
    table = query.table_name(body.name)
    columns = [(c.name, c.type, c.nullable, "default" in c.model_fields_set, c.default) for c in body.columns]
    sql = query.create_table(table, columns, body.primary_key)
    async with doors.pool.session(user) as conversation:
        await conversation.run(sql)
        description = await service.describe_table(conversation, table)
    return raw_json(msgspec.json.encode(description), 201)


@router.get("/tables/{name}", tags=["tables"], response_model=models.Table)
async def get_table(table: Named, user: User, doors: ServingDoors) -> Response:
    """Describe a table: columns, types, primary key."""
    async with doors.pool.session(user) as conversation:
        return raw_json(msgspec.json.encode(await service.describe_table(conversation, table)))


@router.delete("/tables/{name}", tags=["tables"], status_code=204)
async def drop_table(table: Named, user: User, doors: ServingDoors) -> Response:
    """Drop a table."""
    async with doors.pool.session(user) as conversation:
        await conversation.run(f"DROP TABLE {table.sql}")
    return Response(status_code=204)


@router.get("/tables/{name}/rows", tags=["rows"], response_model=models.Page)
async def get_rows(
    request: Request,
    table: Named,
    user: User,
    doors: ServingDoors,
    select: Annotated[str | None, Query(description="Columns, with commas", examples=["carrier,name"])] = None,
    order: Annotated[str | None, Query(description="column[.asc|.desc][.nullsfirst|.nullslast], ..")] = None,
    limit: Annotated[int | None, Query(ge=0, description="Rows of the page")] = None,
    offset: Annotated[int, Query(ge=0, le=(1 << 63) - 1)] = 0,
) -> Response:
    """Read a page of rows.

    Every other query parameter is a filter on a column, `column=operator.value`, with the operators eq, neq, lt,
    lte, gt, gte, like, in (`in.(a,b)`) and is (`is.null`, `is.not_null`, `is.true`, `is.false`). All must hold.
    """
    rows = doors.limits.default_rows if limit is None else limit
    if rows > doors.limits.max_rows:
        raise BadRequest(f"limit is above {doors.limits.max_rows}", hint="Read pages, or stream with POST /sql.")
    pairs = request.query_params.multi_items()
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.read_page(conversation, table, pairs, rows, offset))


RowsBody = Annotated[models.Row | list[models.Row], "One row, or a list of rows"]


@router.post("/tables/{name}/rows", tags=["rows"], status_code=201, response_model=models.Rows)
async def post_rows(body: RowsBody, table: Named, user: User, doors: ServingDoors) -> Response:
    """Insert one row or many, all or none."""
    rows = body if isinstance(body, list) else [body]
    if len(rows) > doors.limits.max_rows:
        raise BadRequest(f"the request holds more than {doors.limits.max_rows} rows", sqlstate="54000")
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.insert_rows(conversation, table, rows), 201)


@router.get("/tables/{name}/rows/{key:path}", tags=["rows"], response_model=models.Row)
async def get_row(table: Named, key: Key, user: User, doors: ServingDoors, select: str | None = None) -> Response:
    """Read one row by its key."""
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.read_row(conversation, table, key, select))


@router.put("/tables/{name}/rows/{key:path}", tags=["rows"], response_model=models.Row)
async def put_row(body: models.Row, table: Named, key: Key, user: User, doors: ServingDoors) -> Response:
    """Make the row with this key be exactly the body: columns that are not given take their default."""
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.replace_row(conversation, table, key, body))


@router.patch("/tables/{name}/rows/{key:path}", tags=["rows"], response_model=models.Row)
async def patch_row(body: models.Row, table: Named, key: Key, user: User, doors: ServingDoors) -> Response:
    """Change the columns that the body names."""
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.update_row(conversation, table, key, body))


@router.delete("/tables/{name}/rows/{key:path}", tags=["rows"], status_code=204)
async def delete_row(table: Named, key: Key, user: User, doors: ServingDoors) -> Response:
    """Delete one row by its key."""
    async with doors.pool.session(user) as conversation:
        await service.delete_row(conversation, table, key)
    return Response(status_code=204)


_SQL_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Columns with types, rows, the command tag and the row count. NDJSON: one object a row.",
        "content": {
            MEDIA_TYPES["ndjson"]: {"schema": {"type": "string"}, "example": '{"carrier":"AA"}\n{"carrier":"B6"}\n'},
            "text/csv": {"schema": {"type": "string"}, "example": "carrier\r\nAA\r\n"},
        },
    }
}


@router.post("/sql", tags=["sql"], response_model=models.SqlResult, responses=_SQL_ANSWERS)
async def post_sql(body: models.SqlRequest, user: User, doors: ServingDoors) -> Response:
    """Run one statement. The answer is streamed; if it breaks off, the connection does too."""
    if body.format not in MEDIA_TYPES:
        raise NotSupported(f"format {body.format}")
    pool = doors.pool
    conversation = pool.take(user)
    try:
        async with pool.time_limit():
            statement, parameters = await service.run_statement(conversation, body.sql, body.params)
            stream = await conversation.stream(statement, parameters)
            if stream.complete is not None:
                service.check_after(conversation, stream.complete)
    except BaseException:
        pool.give_back(user, conversation)
        raise

    def finished() -> None:
        if not stream.finished:
            conversation.tainted = True
        pool.give_back(user, conversation)

    return StreamedAnswer(stream, body.format, doors.limits, finished)


@router.post("/transactions", tags=["sql"], response_model=models.TransactionResult)
async def post_transaction(body: models.TransactionRequest, user: User, doors: ServingDoors) -> Response:
    """Run statements in one transaction: all of them, or none."""
    if len(body.statements) > doors.limits.max_statements:
        raise BadRequest(f"the request holds more than {doors.limits.max_statements} statements", sqlstate="54000")
    statements = [(statement.sql, statement.params) for statement in body.statements]
    async with doors.pool.session(user) as conversation:
        return raw_json(await service.run_transaction(conversation, statements, body.isolation, doors.limits))


async def engine_error(request: Request, error: Exception) -> Response:
    """Return the reply to an engine error."""
    assert isinstance(error, OrbitError)
    status = status_of(error.sqlstate)
    if status == 500:
        log.error("rest request failed in the engine", sqlstate=error.sqlstate, message=error.message)
    headers = {"www-authenticate": 'Basic realm="orbit", Bearer'} if status == 401 else None
    return Response(errors.body_of(error), status, headers, media_type="application/json")


async def invalid_request(request: Request, error: Exception) -> Response:
    """Return the reply to a request that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    body = errors.plain_body(HTTP_CODES[400], f"{where}: {first['msg']}")
    return Response(body, 400, media_type="application/json")


async def http_error(request: Request, error: Exception) -> Response:
    """Return the reply to what HTTP itself refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    code = HTTP_CODES.get(error.status_code, "22023")
    body = errors.plain_body(code, str(error.detail).lower())
    return Response(body, error.status_code, error.headers, media_type="application/json")


async def defect(request: Request, error: Exception) -> Response:
    """Return the reply to a defect; `Guard` logs it."""
    return JSONResponse({"error": {"code": "XX000", "message": "internal error", "detail": None, "hint": None}}, 500)


def build_app(doors: Doors, version: str) -> FastAPI:
    """Return the application. `version` is the engine's, for OpenAPI."""
    app = FastAPI(
        title="Orbit Engine",
        version=version,
        summary="Tables, rows, SQL and transactions over HTTP",
        docs_url=None,  # the page would load its script from elsewhere
        redoc_url=None,
        exception_handlers={
            OrbitError: engine_error,
            RequestValidationError: invalid_request,
            HTTPException: http_error,
            Exception: defect,
        },
    )
    app.state.doors = doors
    app.include_router(router)
    return app
