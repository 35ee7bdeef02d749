"""Commands about the connection and the server that touch no key.

Owns their replies. What they tell is true of this process, or is not told.
"""

from __future__ import annotations

from typing import Final

from services.gateway.conversation import Steps
from services.gateway.protocols.redis import wire
from services.gateway.protocols.redis.commands.command import Access, Call, Command, command, to_int, wrong_arguments
from services.gateway.protocols.redis.commands.keys import count_keys
from services.gateway.protocols.redis.keyspace import RedisError

COMPATIBLE_VERSION: Final = "7.0.15"
"""The Redis version whose replies ours are compared with; clients choose their ways by it."""


def _ping(call: Call) -> bytes:
    if len(call.words) > 2:
        raise wrong_arguments("ping")
    return wire.bulk(call.words[1]) if len(call.words) == 2 else wire.PONG


def _echo(call: Call) -> bytes:
    return wire.bulk(call.words[1])


def _select(call: Call) -> bytes:
    if to_int(call.words[1]) != 0:
        raise RedisError("ERR DB index is out of range")
    return wire.OK


def _time(call: Call) -> bytes:
    return wire.bulks([b"%d" % (call.now_us // 1_000_000), b"%d" % (call.now_us % 1_000_000)])


def _info(call: Call) -> Steps[bytes]:
    wanted = {word.lower() for word in call.words[1:]} & {b"server", b"clients", b"keyspace"}
    if len(call.words) == 1 or {word.lower() for word in call.words[1:]} & {b"all", b"default", b"everything"}:
        wanted = {b"server", b"clients", b"keyspace"}
    facts = call.server.facts()
    sections: list[str] = []
    if b"server" in wanted:
        lines = [f"redis_version:{COMPATIBLE_VERSION}", "redis_mode:standalone"]
        lines += [f"{name}:{value}" for name, value in facts.items() if name != "connected_clients"]
        sections.append("# Server\r\n" + "\r\n".join(lines) + "\r\n")
    if b"clients" in wanted:
        sections.append(f"# Clients\r\nconnected_clients:{facts['connected_clients']}\r\n")
    if b"keyspace" in wanted:
        keys, expiring = yield from count_keys(call)
        line = f"db0:keys={keys},expires={expiring}\r\n" if keys else ""
        sections.append(f"# Keyspace\r\n{line}")
    return call.resp.verbatim("\r\n".join(sections).encode())


def _client(call: Call) -> bytes:
    client = call.client
    sub = call.words[1].upper()
    arguments = call.words[2:]
    wanted = {b"ID": 0, b"GETNAME": 0, b"INFO": 0, b"SETNAME": 1, b"SETINFO": 2}.get(sub)
    if wanted is None:
        raise unknown_subcommand(call)
    if len(arguments) != wanted:
        raise wrong_arguments(f"client|{sub.decode().lower()}")
    if sub == b"ID":
        return wire.integer(client.id)
    if sub == b"GETNAME":
        return wire.bulk(client.name) if client.name else call.resp.null
    if sub == b"INFO":
        text = f"id={client.id} addr={client.address} name={client.name.decode('ascii')} db=0 user={client.user}"
        return call.resp.verbatim(f"{text} resp={client.resp.version}\n".encode())
    if sub == b"SETNAME":
        client.name = checked_name(arguments[0])
        return wire.OK
    name, value = arguments[0].lower(), arguments[1]
    if name not in (b"lib-name", b"lib-ver"):
        raise RedisError(f"ERR Unrecognized option '{arguments[0].decode('utf-8', 'surrogateescape')}'")
    if not _printable(value):
        raise RedisError(f"ERR {name.decode()} cannot contain spaces, newlines or special characters.")
    client.library[name] = value
    return wire.OK


def checked_name(name: bytes) -> bytes:
    """Return a client name. Raises RedisError when it has a blank or a special character."""
    if not _printable(name):
        raise RedisError("ERR Client names cannot contain spaces, newlines or special characters.")
    return name


def _printable(text: bytes) -> bool:
    return all(0x21 <= char <= 0x7E for char in text)


def unknown_subcommand(call: Call) -> RedisError:
    sub = call.words[1][:128].decode("utf-8", "surrogateescape")
    return RedisError(f"ERR unknown subcommand '{sub}'. Try {call.name.upper()} HELP.")


def describe(cmd: Command, call: Call) -> bytes:
    """Return a command's entry as COMMAND lists it."""
    resp = call.resp
    return wire.array(
        [
            wire.bulk(cmd.name.encode()),
            wire.integer(cmd.arity),
            resp.set([wire.simple(flag.encode()) for flag in cmd.flags]),
            wire.integer(cmd.first_key),
            wire.integer(cmd.last_key),
            wire.integer(cmd.step),
            resp.set([]),
            wire.EMPTY_ARRAY,
            wire.EMPTY_ARRAY,
            wire.EMPTY_ARRAY,
        ]
    )


_L: Final = Access.LOCAL
_S: Final = Access.SESSION

COMMANDS: Final[tuple[Command, ...]] = (
    command("ping", -1, _L, "Answer", _ping, flags=("fast",)),
    command("echo", 2, _L, "Answer with the message", _echo, flags=("fast",)),
    command("select", 2, _L, "Choose database 0, the only one", _select, flags=("fast",)),
    command("time", 1, _L, "Tell the time", _time, flags=("fast",)),
    command("client", -2, _L, "Name this connection, or tell about it", _client),
    command("info", -1, Access.READ, "Tell facts of this gateway", _info),
    command("auth", -2, _S, "Authenticate", None, flags=("noscript", "fast", "no_auth")),
    command("hello", -1, _S, "Choose the protocol version", None, flags=("noscript", "fast", "no_auth")),
    command("quit", -1, _S, "Close this connection", None, flags=("fast", "no_auth")),
    command("multi", 1, _S, "Start to queue commands", None, flags=("fast",)),
    command("exec", 1, _S, "Run the queued commands in one transaction", None),
    command("discard", 1, _S, "Drop the queued commands", None, flags=("fast",)),
    command("watch", -2, _S, "Not supported yet", None, flags=("fast",)),
    command("unwatch", 1, _S, "Not supported yet", None, flags=("fast",)),
)
