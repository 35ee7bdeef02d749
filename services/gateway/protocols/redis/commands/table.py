"""The table of all commands, and COMMAND, which tells of it.

Owns look-up by name and the errors of a call that names no command, or has the wrong number of words.
"""

from __future__ import annotations

from typing import Final

from services.gateway.protocols.redis import wire
from services.gateway.protocols.redis.commands import hashes, keys, server, strings
from services.gateway.protocols.redis.commands.command import (
    Access,
    Call,
    Command,
    Words,
    command,
    wrong_arguments,
)
from services.gateway.protocols.redis.keyspace import RedisError


def _command(call: Call) -> bytes:
    sub = call.words[1].upper() if len(call.words) > 1 else b""
    names = call.words[2:]
    if sub == b"":
        return wire.array([server.describe(item, call) for item in COMMANDS.values()])
    if sub == b"COUNT" and not names:
        return wire.integer(len(COMMANDS))
    if sub == b"LIST" and not names:
        return call.resp.set([wire.bulk(name) for name in COMMANDS])
    if sub == b"INFO":
        found = [COMMANDS.get(name.lower()) for name in names] if names else list(COMMANDS.values())
        return wire.array([call.resp.null_array if item is None else server.describe(item, call) for item in found])
    if sub == b"DOCS":
        known = [COMMANDS[name.lower()] for name in names if name.lower() in COMMANDS] if names else COMMANDS.values()
        docs: list[bytes] = []
        for item in known:
            summary = [wire.bulk(b"summary"), wire.bulk(item.summary.encode())]
            docs += [wire.bulk(item.name.encode()), call.resp.map(summary)]
        return call.resp.map(docs)
    raise server.unknown_subcommand(call)


COMMANDS: Final[dict[bytes, Command]] = {
    item.name.encode(): item
    for item in (
        *strings.COMMANDS,
        *hashes.COMMANDS,
        *keys.COMMANDS,
        *server.COMMANDS,
        command("command", -1, Access.LOCAL, "List the commands of this server", _command),
    )
}


def find(words: Words) -> Command:
    """Return the command that the words name, with a right number of them. Raises RedisError."""
    found = COMMANDS.get(words[0]) or COMMANDS.get(words[0].lower())
    if found is None:
        raise RedisError(_unknown(words))
    if not found.accepts(len(words)):
        raise wrong_arguments(found.name)
    return found


def _unknown(words: Words) -> str:
    """Return Redis' text: the name and the first arguments, cut to 128 bytes."""
    shown = b""
    for word in words[1:]:
        if len(shown) >= 128:
            break
        shown += b"'%b' " % word[: 128 - len(shown)]
    name = words[0][:128].decode("utf-8", "surrogateescape")
    return f"ERR unknown command '{name}', with args beginning with: {shown.decode('utf-8', 'surrogateescape')}"
