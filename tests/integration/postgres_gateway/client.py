"""A PostgreSQL client that sends and reads whole messages, for what drivers never do."""

from __future__ import annotations

import asyncio
import contextlib
from struct import pack
from typing import Self

from scramp import ScramClient

from services.gateway.protocols.postgres import wire
from tests.integration.postgres_gateway.scripted import DATABASE, PASSWORD, USER

Message = tuple[str, bytes]
TIMEOUT_S = 10


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parameters: dict[str, str] = {}
        self.key = b""

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    # Sending.

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def start(self, protocol: int = wire.PROTOCOL_3_0, /, **parameters: str) -> None:
        words = {"user": USER, "database": DATABASE} | parameters
        body = b"".join(f"{name}\0{value}\0".encode() for name, value in words.items()) + b"\0"
        self.send(pack(">II", len(body) + 8, protocol) + body)

    # Reading.

    async def read(self) -> Message:
        head = await asyncio.wait_for(self.reader.readexactly(5), TIMEOUT_S)
        body = await self.reader.readexactly(int.from_bytes(head[1:], "big") - 4)
        return chr(head[0]), body

    async def until(self, kind: str) -> list[Message]:
        """Return the messages up to and including the first of this kind."""
        messages = [await self.read()]
        while messages[-1][0] != kind:
            messages.append(await self.read())
        return messages

    async def closed(self) -> list[Message]:
        """Return what is left before the server closes the connection."""
        messages: list[Message] = []
        while True:
            try:
                messages.append(await self.read())
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return messages

    # The way in.

    async def log_in(self, password: str = PASSWORD, **parameters: str) -> list[Message]:
        self.start(**parameters)
        return await self.prove(password)

    async def prove(self, password: str) -> list[Message]:
        """Do the SCRAM exchange; return what follows, up to ReadyForQuery or the end."""
        first = await self.read()
        while first[0] == "v":
            first = await self.read()
        if first[0] == "E":
            return [first, *await self.closed()]
        assert first == ("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
        scram = ScramClient(["SCRAM-SHA-256"], USER, password)
        text = scram.get_client_first().encode()
        self.send(wire.message(b"p", b"SCRAM-SHA-256\0" + pack(">I", len(text)) + text))
        kind, body = await self.read()
        assert (kind, body[:4]) == ("R", b"\0\0\0\x0b")
        scram.set_server_first(body[4:].decode())
        self.send(wire.message(b"p", scram.get_client_final().encode()))
        answer = await self.read()
        if answer[0] == "E":
            return [answer, *await self.closed()]
        assert answer[1][:4] == b"\0\0\0\x0c"
        scram.set_server_final(answer[1][4:].decode())
        messages = await self.until_ready_or_end()
        for name, value in messages:
            if name == "S":
                key, _, text_value = value[:-1].partition(b"\0")
                self.parameters[key.decode()] = text_value.decode()
            elif name == "K":
                self.key = value
        return messages

    async def until_ready_or_end(self) -> list[Message]:
        messages = [await self.read()]
        while messages[-1][0] not in "ZE":
            messages.append(await self.read())
        return messages

    # Requests.

    async def query(self, sql: str) -> list[Message]:
        self.send(wire.message(b"Q", sql.encode() + b"\0"))
        return await self.until("Z")

    async def drain(self) -> None:
        await self.writer.drain()


def parse(name: str, sql: str, *oids: int) -> bytes:
    return wire.message(b"P", f"{name}\0{sql}\0".encode() + pack(f">h{len(oids)}I", len(oids), *oids))


def bind(
    portal: str = "", statement: str = "", parameters: tuple[bytes | None, ...] = (), results: tuple[int, ...] = ()
) -> bytes:
    values = b"".join(b"\xff\xff\xff\xff" if v is None else pack(">I", len(v)) + v for v in parameters)
    head = f"{portal}\0{statement}\0".encode()
    return wire.message(
        b"B",
        head + pack(">hh", 0, len(parameters)) + values + pack(f">h{len(results)}h", len(results), *results),
    )


def describe(kind: str, name: str = "") -> bytes:
    return wire.message(b"D", f"{kind}{name}\0".encode())


def close(kind: str, name: str = "") -> bytes:
    return wire.message(b"C", f"{kind}{name}\0".encode())


def execute(portal: str = "", maximum: int = 0) -> bytes:
    return wire.message(b"E", portal.encode() + b"\0" + pack(">i", maximum))


SYNC = wire.message(b"S", b"")
FLUSH = wire.message(b"H", b"")


def kinds(messages: list[Message]) -> str:
    return "".join(kind for kind, _ in messages)


def error_of(messages: list[Message]) -> dict[str, str]:
    """Return the fields of the only ErrorResponse."""
    (body,) = [body for kind, body in messages if kind == "E"]
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}
