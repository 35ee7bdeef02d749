"""gRPC between services: servers, channels, and errors that keep their type on the way.

Owns sizes, liveness, TLS and the mapping of `OrbitError` to and from gRPC statuses. Not the messages, which are
proto/orbit/api/v1, nor what travels in them.

An error is sent as a status of its kind, for tools; with its SQLSTATE as trailing metadata `sqlstate`; and whole, as
trailing metadata `orbit-error-bin`, from which the other side makes the same exception again.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
import msgspec
import structlog

import orbit
from orbit.chassis.tls import TlsFiles, TlsMisconfigured, read_pem
from orbit.kernel import errors
from orbit.kernel.errors import OrbitError

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES: Final = 16 << 20
KEEPALIVE_INTERVAL_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
"""A peer that answers no ping for so long is gone: noticed after 15 s without traffic."""
RECONNECT_FIRST_MS: Final = 100
RECONNECT_LAST_MS: Final = 2_000
STOP_GRACE_S: Final = 5.0
MAX_ERROR_TEXT: Final = 4000
"""gRPC bounds all metadata of a call to 8 kB by default."""

SQLSTATE: Final = "sqlstate"
ERROR: Final = "orbit-error-bin"

_LIVENESS: Final = [
    ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]
_SERVER_OPTIONS: Final = [
    *_LIVENESS,
    ("grpc.so_reuseport", 0),  # two servers on one port would share its connections without a word
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_INTERVAL_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
]
_CHANNEL_OPTIONS: Final = [
    *_LIVENESS,
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", RECONNECT_FIRST_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_LAST_MS),
    ("grpc.use_local_subchannel_pool", 1),
]


class RpcServer:
    """A gRPC server of this process. Its handlers raise `OrbitError`; clients get it back."""

    def __init__(self, *, host: str, port: int, tls: TlsFiles | None = None) -> None:
        """`port` 0 takes a free one. With `tls` clients must show a certificate of the same authority."""
        self.host = host
        self.port = port
        self._tls = tls
        self.server: grpc.aio.Server = grpc.aio.server(options=_SERVER_OPTIONS, interceptors=[_ErrorInterceptor()])
        """Register the generated servicers on this, before `start`."""

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken, TlsMisconfigured."""
        if orbit.GRPC_CAME_FIRST:
            log.warning("grpc was imported before orbit and runs with its costly event engine")
        try:
            if self._tls is None:
                self.port = self.server.add_insecure_port(self.address)
            else:
                self.port = self.server.add_secure_port(self.address, _server_credentials(self._tls))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.address}: is the port taken?") from error
        await self.server.start()
        log.info("rpc server started", address=self.address, tls=self._tls is not None)

    async def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Take no new calls, give those that run `grace_s`, cancel the rest."""
        await self.server.stop(grace_s)


def open_channel(address: str, *, tls: TlsFiles | None = None, server_name: str = "") -> grpc.aio.Channel:
    """Return a channel to `host:port`; it connects, and reconnects, by itself. Close it.

    With `tls` both sides show certificates; `server_name` is the name in the server's, when it is not the host's.
    """
    options: list[tuple[str, Any]] = [*_CHANNEL_OPTIONS]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read_pem(tls.ca_path, "authority") if tls.ca_path else None,
        private_key=read_pem(tls.key_path, "key"),
        certificate_chain=read_pem(tls.cert_path, "certificate"),
    )
    return grpc.aio.secure_channel(address, credentials, options=options)


def _server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    if tls.ca_path is None:
        raise TlsMisconfigured("tls ca_cert_path is missing: services authenticate each other by its certificates")
    pair = (read_pem(tls.key_path, "key"), read_pem(tls.cert_path, "certificate"))
    return grpc.ssl_server_credentials(
        [pair], root_certificates=read_pem(tls.ca_path, "authority"), require_client_auth=True
    )


class _WireError(msgspec.Struct, array_like=True):
    """An `OrbitError` on its way."""

    type: str
    message: str
    sqlstate: str
    detail: str | None = None
    hint: str | None = None
    position: int | None = None
    schema: str | None = None
    table: str | None = None
    column: str | None = None
    constraint: str | None = None
    severity: str = "ERROR"


_encode_error = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(_WireError).decode

_TYPES: Final[dict[str, type[OrbitError]]] = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, OrbitError)
}

_BY_STATE: Final = {
    "0A000": grpc.StatusCode.UNIMPLEMENTED,
    "23505": grpc.StatusCode.ALREADY_EXISTS,
    "42501": grpc.StatusCode.PERMISSION_DENIED,
    "42P01": grpc.StatusCode.NOT_FOUND,
    "08007": grpc.StatusCode.UNKNOWN,
    "55P03": grpc.StatusCode.ABORTED,
    "57014": grpc.StatusCode.CANCELLED,
    "58030": grpc.StatusCode.UNAVAILABLE,
}
_BY_CLASS: Final = {
    "08": grpc.StatusCode.UNAVAILABLE,
    "22": grpc.StatusCode.INVALID_ARGUMENT,
    "23": grpc.StatusCode.FAILED_PRECONDITION,
    "25": grpc.StatusCode.FAILED_PRECONDITION,
    "28": grpc.StatusCode.UNAUTHENTICATED,
    "40": grpc.StatusCode.ABORTED,
    "42": grpc.StatusCode.INVALID_ARGUMENT,
    "53": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "54": grpc.StatusCode.OUT_OF_RANGE,
    "55": grpc.StatusCode.FAILED_PRECONDITION,
    "57": grpc.StatusCode.UNAVAILABLE,
}
_CONNECTION_FAILURE: Final = "08006"
_INTERNAL: Final = "XX000"


def status_of(error: OrbitError) -> grpc.StatusCode:
    """Return the gRPC status that fits the error's SQLSTATE."""
    return _BY_STATE.get(error.sqlstate) or _BY_CLASS.get(error.sqlstate[:2], grpc.StatusCode.INTERNAL)


def error_metadata(error: OrbitError) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that carries the error."""

    def short(text: str | None) -> str | None:
        return text if text is None or len(text) <= MAX_ERROR_TEXT // 4 else text[: MAX_ERROR_TEXT // 4 - 2] + ".."

    wire = _WireError(
        type(error).__name__,
        short(error.message) or "",
        error.sqlstate,
        short(error.detail),
        short(error.hint),
        error.position,
        error.schema,
        error.table,
        error.column,
        error.constraint,
        error.severity,
    )
    return ((SQLSTATE, error.sqlstate), (ERROR, _encode_error(wire)))


def error_from_rpc(failure: grpc.aio.AioRpcError) -> OrbitError:
    """Return the error that the other side raised, or what the failure of the call itself means (08006, XX000)."""
    for name, value in failure.trailing_metadata() or ():
        if name == ERROR and isinstance(value, bytes):
            return _revive(value)
    code, text = failure.code(), failure.details() or "no details"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return OrbitError(f"the other service does not answer: {text}", sqlstate=_CONNECTION_FAILURE)
    return OrbitError(f"call failed with {code.name}: {text}", sqlstate=_INTERNAL)


def _revive(value: bytes) -> OrbitError:
    try:
        wire = _decode_error(value)
    except msgspec.DecodeError as error:
        return OrbitError(f"an error that cannot be read came back: {error}", sqlstate=_INTERNAL)
    return _TYPES.get(wire.type, OrbitError)(
        wire.message,
        sqlstate=wire.sqlstate,
        detail=wire.detail,
        hint=wire.hint,
        position=wire.position,
        schema=wire.schema,
        table=wire.table,
        column=wire.column,
        constraint=wire.constraint,
        severity=wire.severity,
    )


async def _abort(context: Any, method: str, error: Exception) -> NoReturn:
    """End the call with the error's status. Anything but an OrbitError is a defect: logged here, not told."""
    if not isinstance(error, OrbitError):
        log.error("rpc handler failed", method=method, exc_info=error)
        error = OrbitError("internal error", sqlstate=_INTERNAL)
    await context.abort(status_of(error), error.message, error_metadata(error))
    raise AssertionError("abort raises")


class _ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps every handler, so that none needs to think of statuses."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        requests = "stream" if handler.request_streaming else "unary"
        responses = "stream" if handler.response_streaming else "unary"
        inner = getattr(handler, f"{requests}_{responses}")
        # A streaming handler is either a generator of responses, or a coroutine that writes them.
        wrap = _wrap_generator if inspect.isasyncgenfunction(inner) else _wrap_coroutine
        return handler._replace(**{f"{requests}_{responses}": wrap(inner, cast(str, handler_call_details.method))})


def _wrap_coroutine(inner: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        try:
            return await inner(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, method, error)

    return call


def _wrap_generator(inner: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(request, context):
                yield response
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            await _abort(context, method, error)

    return call
