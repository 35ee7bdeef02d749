"""gRPC between services: errors keep their type, strangers stay out, sizes and ports are checked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from orbit.chassis.rpc import MAX_MESSAGE_BYTES, RpcServer, error_from_rpc, open_channel, status_of
from orbit.chassis.tls import TlsFiles, TlsMisconfigured
from orbit.kernel.errors import ConstraintViolation, DeadlockDetected, NotLeader, NotSupported, OrbitError
from tests.fixtures.fix_certificates import Certificates

pytestmark = pytest.mark.integration

VIOLATION = ConstraintViolation(
    "duplicate key value violates unique constraint",
    sqlstate="23505",
    detail="Key (id)=(1) already exists.",
    schema="public",
    table="t",
    column="id",
    constraint="t_pkey",
    position=7,
    hint="é" * 5000,
)


class Handlers:
    """One method of each kind; `raises` is what they fail with."""

    raises: Exception | None = None

    async def unary(self, request: bytes, _context: Any) -> bytes:
        if self.raises:
            raise self.raises
        return request

    async def generate(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield request
        if self.raises:
            raise self.raises

    async def converse(self, _requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)
            if self.raises:
                raise self.raises


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


def make_server(handlers: Handlers, tls: TlsFiles | None = None) -> RpcServer:
    server = RpcServer(host="127.0.0.1", port=0, tls=tls)
    methods = {
        "unary": grpc.unary_unary_rpc_method_handler(handlers.unary),
        "generate": grpc.unary_stream_rpc_method_handler(handlers.generate),
        "converse": grpc.stream_stream_rpc_method_handler(handlers.converse),
    }
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    return server


@pytest.fixture
async def channel(handlers: Handlers) -> AsyncIterator[grpc.aio.Channel]:
    server = make_server(handlers)
    await server.start()
    channel = open_channel(server.address)
    yield channel
    await channel.close()
    await server.stop(0)


async def by_unary(channel: grpc.aio.Channel) -> None:
    await channel.unary_unary("/test/unary")(b"x")


async def by_generator(channel: grpc.aio.Channel) -> None:
    assert [message async for message in channel.unary_stream("/test/generate")(b"x")]


async def by_conversation(channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream("/test/converse")()
    await call.write(b"x")
    assert await call.read() == b"x"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


KINDS: list[Callable[[grpc.aio.Channel], Any]] = [by_unary, by_generator, by_conversation]


@pytest.mark.parametrize("kind", KINDS)
async def test_errors_keep_their_type_and_fields(channel: grpc.aio.Channel, handlers: Handlers, kind: Any) -> None:
    await kind(channel)
    handlers.raises = VIOLATION
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kind(channel)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert ("sqlstate", "23505") in tuple(caught.value.trailing_metadata() or ())
    error = error_from_rpc(caught.value)
    assert type(error) is ConstraintViolation
    for name in ("message", "sqlstate", "detail", "schema", "table", "column", "constraint", "position", "severity"):
        assert getattr(error, name) == getattr(VIOLATION, name)
    assert error.hint is not None and error.hint.endswith("..")  # shortened to what metadata can hold


@pytest.mark.parametrize("kind", KINDS)
async def test_a_defect_is_not_told_to_the_other_side(channel: grpc.aio.Channel, handlers: Handlers, kind: Any) -> None:
    handlers.raises = KeyError("secret")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kind(channel)
    error = error_from_rpc(caught.value)
    assert (error.sqlstate, error.message) == ("XX000", "internal error")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotLeader("x"), grpc.StatusCode.UNAVAILABLE),
        (DeadlockDetected("x"), grpc.StatusCode.ABORTED),
        (NotSupported("x"), grpc.StatusCode.UNIMPLEMENTED),
        (OrbitError("x", sqlstate="53100"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (OrbitError("x"), grpc.StatusCode.INTERNAL),
    ],
)
def test_statuses_fit_the_sqlstate(error: OrbitError, status: grpc.StatusCode) -> None:
    assert status_of(error) is status


async def test_a_server_that_is_away_is_a_connection_failure(handlers: Handlers) -> None:
    server = make_server(handlers)
    await server.start()
    address = server.address
    await server.stop(0)
    channel = open_channel(address)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await by_unary(channel)
    assert error_from_rpc(caught.value).sqlstate == "08006"
    await channel.close()


async def test_messages_past_the_limit_are_refused(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/test/unary")
    assert len(await call(bytes(MAX_MESSAGE_BYTES - 1000))) == MAX_MESSAGE_BYTES - 1000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(bytes(MAX_MESSAGE_BYTES + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_taken_port_is_an_error_at_start(handlers: Handlers) -> None:
    first = make_server(handlers)
    await first.start()
    second = RpcServer(host="127.0.0.1", port=first.port)
    with pytest.raises(OSError, match=str(first.port)):
        await second.start()
    await first.stop(0)
    await second.stop(0)


async def test_services_know_each_other_by_certificate(handlers: Handlers, certificates: Certificates) -> None:
    server = make_server(handlers, certificates.server)
    await server.start()
    friend = open_channel(server.address, tls=certificates.client)
    await by_unary(friend)
    stranger = open_channel(server.address, tls=replace(certificates.stranger, ca_path=certificates.server.ca_path))
    plain = open_channel(server.address)
    for refused in (stranger, plain):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await by_unary(refused)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    for one in (friend, stranger, plain):
        await one.close()
    await server.stop(0)


async def test_tls_without_an_authority_is_refused(certificates: Certificates) -> None:
    server = RpcServer(host="127.0.0.1", port=0, tls=replace(certificates.server, ca_path=None))
    with pytest.raises(TlsMisconfigured, match="ca_cert_path"):
        await server.start()
    await server.stop(0)


def test_the_transport_was_chosen_before_grpc_came() -> None:
    """In a process that imports orbit first, as every service does."""
    program = (
        "import orbit.chassis.rpc, os, orbit; assert not orbit.GRPC_CAME_FIRST; print(os.environ['GRPC_EXPERIMENTS'])"
    )
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "-event_engine_client" in result.stdout
