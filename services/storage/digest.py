"""A digest of a shard's state, for comparing replicas, restarts and restores.

Owns what counts as state: what a reader can see at the newest LSN, and what decides how the log goes on. Where a
version is kept (tail, segment, tier), in which order, and what nobody can see any more do not count.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from services.storage.state import State

_encode = msgspec.msgpack.Encoder(decimal_format="string", order="sorted").encode


def state_digest(state: State) -> str:
    """Return the digest as hexadecimal text. Reads every row: not for the event loop of a node that serves."""
    digest = blake2b(digest_size=16)
    catalog = state.catalog
    digest.update(_encode([catalog.version, catalog.next_id]))
    for number in sorted(catalog.objects):
        digest.update(_encode(catalog.objects[number]))
    digest.update(
        _encode(
            [
                [state.timeline, state.applied_sequence, state.applied_lsn, state.applied_time_us, state.last_hash],
                [state.epoch, state.leader_node, state.horizon, state.trimmed_through],
                sorted(state.sequences.items()),
                sorted(state.cursors.items()),
                sorted((move_id, move) for move_id, move in state.moves.items()),
                sorted(state.cold.items()),
                list(state.committed.items()),
                state.times,
                sorted((region, str(origin)) for region, origin in state.origins.items()),
            ]
        )
    )
    for storage_id in sorted(state.stores):
        digest.update(_encode(storage_id))
        for row_id, row in sorted(state.stores[storage_id].rows_at(state.applied_lsn), key=lambda item: item[0]):
            digest.update(_encode([row_id, row]))
    return digest.hexdigest()
