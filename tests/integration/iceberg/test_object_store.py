"""The object-store client against a real S3 server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orbit.chassis.object_store import PART_BYTES, ObjectMissing, ObjectStore, S3Settings
from orbit.kernel.errors import StoreUnavailable
from tests.fixtures.fix_weed import BUCKET, Weed

pytestmark = pytest.mark.integration


@pytest.fixture
async def store(weed: Weed) -> AsyncIterator[ObjectStore]:
    made = ObjectStore(weed.settings, BUCKET)
    await made.start()
    yield made
    await made.stop()


async def test_objects_come_back_whole_and_in_parts(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * (PART_BYTES // 100)
    path = tmp_path / "large"
    path.write_bytes(data)
    prefix = f"{tmp_path.name}/"
    await store.put_file(f"{prefix}large", path)
    await store.put(f"{prefix}small", b"small")
    assert await store.get(f"{prefix}large") == data
    assert await store.size(f"{prefix}large") == len(data)
    assert await store.get_ranges(f"{prefix}large", [(5, 10), (len(data) - 3, 3)]) == [data[5:15], data[-3:]]
    assert [(item.key, item.size_bytes) async for item in store.list(prefix)] == [
        (f"{prefix}large", len(data)),
        (f"{prefix}small", 5),
    ]
    await store.delete(f"{prefix}small")
    await store.delete(f"{prefix}small")
    with pytest.raises(ObjectMissing, match="small"):
        await store.get(f"{prefix}small")
    with pytest.raises(ObjectMissing):
        await store.size(f"{prefix}small")


@pytest.mark.parametrize("what", ["secret", "bucket", "endpoint"])
async def test_a_store_that_refuses_or_is_not_there_is_named(weed: Weed, what: str) -> None:
    settings, bucket = weed.settings, BUCKET
    match what:
        case "secret":
            settings = replace(settings, secret_key="not the secret")
        case "bucket":
            bucket = "no-such-bucket"
        case _:
            settings = S3Settings("http://127.0.0.1:9", access_key="a", secret_key="b", path_style=True)
    store = ObjectStore(settings, bucket)
    await store.start()
    with pytest.raises(StoreUnavailable, match=bucket) as error:
        await store.get("x")
    assert not isinstance(error.value, ObjectMissing)
    assert "secret" not in repr(settings) and "not the secret" not in error.value.message
    await store.stop()
