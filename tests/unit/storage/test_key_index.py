"""The key index against a dictionary, and its hash against Python's."""

from __future__ import annotations

import random

import numpy as np
import pytest

from services.storage.tiers.key_index import (
    MAX_SEGMENTS,
    KeyIndex,
    fragment_of,
    fragments_of,
    int_keys_hash,
    positions_of,
)

MERSENNE = (1 << 61) - 1
EDGES = [
    0,
    1,
    -1,
    -2,
    2,
    MERSENNE,
    -MERSENNE,
    MERSENNE - 1,
    MERSENNE + 1,
    -MERSENNE - 1,
    2 * MERSENNE,
    2 * MERSENNE + 1,
]
EDGES += [(1 << 63) - 1, -(1 << 63), -(1 << 63) + 1, 1 << 62, -(1 << 62)]


def test_integers_hash_as_python_hashes_them() -> None:
    keys = EDGES + [random.Random(1).randrange(-(1 << 63), 1 << 63) for _ in range(1000)]
    assert int_keys_hash(np.array(keys, np.int64)).tolist() == [hash(key) for key in keys]
    assert fragments_of(np.array(keys, np.int64)).tolist() == [fragment_of(key) for key in keys]
    assert fragments_of(keys).tolist() == [fragment_of(key) for key in keys]


@pytest.mark.parametrize("seed", range(5))
def test_finds_what_was_added_and_little_else(seed: int) -> None:
    rng = random.Random(seed)
    index, model = KeyIndex(), dict[object, set[int]]()
    position = 0
    for _ in range(rng.randrange(5, 40)):
        count = rng.choice([1, 3, 500, 4000])
        kind = rng.randrange(3)
        keys: list[object] = [
            (rng.randrange(3000), "é" * rng.randrange(3))
            if kind == 0
            else rng.randrange(-3000, 3000)
            if kind == 1
            else f"k{rng.randrange(3000)}"
            for _ in range(count)
        ]
        positions = np.arange(position, position + count)
        if count == 1:
            index.add(keys[0], position)
        elif kind == 1:
            index.add_many(fragments_of(np.array(keys, np.int64)), positions)
        else:
            index.add_many(fragments_of(keys), positions)
        for key in keys:
            model.setdefault(key, set()).add(position)
            position += 1
    extra = 0
    for key, wanted in model.items():
        found = index.find(key)
        assert len(found) == len(set(found)) and wanted <= set(found), (seed, key)
        extra += len(found) - len(wanted)
    assert extra < len(model) * 0.01, "fragments collide far more often than chance"
    asked = rng.sample(list(model), min(500, len(model)))
    at, hits = index.probe_many(fragments_of(asked))
    probed: dict[int, set[int]] = {}
    for one, hit in zip(at.tolist(), hits.tolist(), strict=True):
        probed.setdefault(one, set()).add(hit)
    assert [probed.get(n, set()) for n in range(len(asked))] == [set(index.find(key)) for key in asked], seed


def test_equal_fragments_are_all_candidates() -> None:
    """Keys a multiple of the hash's modulus apart have one hash: each position must still be found."""
    keys = [7, 7 + MERSENNE, 7 + 2 * MERSENNE]
    index = KeyIndex()
    index.add_many(fragments_of(np.array(keys, np.int64)), np.array([10, 11, 12]))
    assert hash(keys[0]) == hash(keys[1]) == hash(keys[2])
    assert sorted(index.find(7)) == [10, 11, 12]


def test_rebuild_drops_what_is_gone_and_keeps_the_rest() -> None:
    index = KeyIndex()
    keys = np.arange(50_000)
    index.add_many(fragments_of(keys), positions_of(3, keys % 65536))
    index.add_many(fragments_of(keys), positions_of(4, keys % 65536))
    before = index.size_bytes
    index.rebuild(lambda positions: positions >> 16 == 4)
    assert index.count == 50_000 and index.size_bytes < before
    assert all((4 << 16) + key in index.find(key) and (3 << 16) + key not in index.find(key) for key in (0, 17, 49_999))


def test_a_segment_number_that_does_not_fit_is_refused_and_harms_nothing() -> None:
    index = KeyIndex()
    index.add_many(fragments_of(np.array([5])), positions_of(MAX_SEGMENTS - 1, np.array([0xFFFF])))
    assert index.find(5) == [((MAX_SEGMENTS - 1) << 16) + 0xFFFF]
    with pytest.raises(OverflowError, match="past"):
        positions_of(MAX_SEGMENTS, np.array([0]))
