"""The S3-compatible object store: settings, an asynchronous client, and a blocking one for worker threads.

The only home of aioboto3. Owns credentials in memory, time limits, encryption headers and the mapping of failures to
`StoreUnavailable`. Knows nothing of Iceberg, backups or what the bytes mean.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from orbit.kernel.errors import StoreUnavailable

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 30
ATTEMPTS: Final = 3
PARALLEL_REQUESTS: Final = 16
PART_BYTES: Final = 8 << 20
"""Size of one part of a large transfer."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach an S3-compatible store. Without keys, the instance's role or the SDK's own chain gives them.

    `endpoint` is a URL with its scheme, '' for the provider's own. `server_side_encryption` is '', 'AES256' or
    'aws:kms'; `kms_key_id` is '' for the bucket's default key.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    path_style: bool = False
    server_side_encryption: str = ""
    kms_key_id: str = ""

    @property
    def shown(self) -> str:
        """The store's name in messages."""
        return urlsplit(self.endpoint).netloc or f"s3.{self.region}.amazonaws.com"

    def encryption(self) -> dict[str, str]:
        """Return the request arguments of every write."""
        if not self.server_side_encryption:
            return {}
        arguments = {"ServerSideEncryption": self.server_side_encryption}
        if self.kms_key_id:
            arguments["SSEKMSKeyId"] = self.kms_key_id
        return arguments


class ObjectMissing(StoreUnavailable):
    """The store answered that there is no such object."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object."""

    key: str
    size_bytes: int


class ObjectStore:
    """One bucket. Start it in the event loop that uses it. Every method raises StoreUnavailable or ObjectMissing."""

    def __init__(self, settings: S3Settings, bucket: str) -> None:
        self.settings = settings
        self.bucket = bucket
        self._exits = AsyncExitStack()
        self._client: Any = None
        self._slots = asyncio.Semaphore(PARALLEL_REQUESTS)

    async def start(self) -> None:
        """Make the client. Sends nothing: an unreachable store shows at the first request."""
        settings = self.settings
        session = aioboto3.Session(
            aws_access_key_id=settings.access_key or None,
            aws_secret_access_key=settings.secret_key or None,
            aws_session_token=settings.session_token or None,
            region_name=settings.region,
        )
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=PARALLEL_REQUESTS,
            s3={"addressing_style": "path" if settings.path_style else "auto"},
        )
        client = session.client("s3", endpoint_url=settings.endpoint or None, config=config)
        self._client = await self._exits.enter_async_context(client)

    async def stop(self) -> None:
        await self._exits.aclose()

    async def get(self, key: str) -> bytes:
        with self._failures(key):
            answer = await self._client.get_object(Bucket=self.bucket, Key=key)
            async with answer["Body"] as body:
                return bytes(await body.read())

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer only at the object's end."""
        async with self._slots:
            with self._failures(key):
                span = f"bytes={offset}-{offset + length - 1}"
                answer = await self._client.get_object(Bucket=self.bucket, Key=key, Range=span)
                async with answer["Body"] as body:
                    return bytes(await body.read())

    async def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several (offset, length) ranges, fetched in parallel."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.get_range(key, *span)) for span in ranges]
        return [task.result() for task in tasks]

    async def put(self, key: str, data: bytes) -> None:
        with self._failures(key):
            body = io.BytesIO(data)
            await self._client.put_object(Bucket=self.bucket, Key=key, Body=body, **self.settings.encryption())

    async def put_file(self, key: str, path: Path) -> None:
        """Upload a local file, in parallel parts when it is large. A failed upload leaves no object."""
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        if size <= PART_BYTES:
            await self.put(key, await asyncio.to_thread(path.read_bytes))
            return
        with self._failures(key):
            place = {"Bucket": self.bucket, "Key": key}
            begun = await self._client.create_multipart_upload(**place, **self.settings.encryption())
            place["UploadId"] = begun["UploadId"]
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self._put_part(place, number, path, offset))
                        for number, offset in enumerate(range(0, size, PART_BYTES), start=1)
                    ]
                parts = [{"PartNumber": number, "ETag": task.result()} for number, task in enumerate(tasks, start=1)]
                await self._client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
            except BaseException as error:
                await self._client.abort_multipart_upload(**place)
                if isinstance(error, BaseExceptionGroup):
                    raise error.exceptions[0] from error
                raise

    async def _put_part(self, place: dict[str, str], number: int, path: Path, offset: int) -> str:
        async with self._slots:
            part = await asyncio.to_thread(_read_part, path, offset)
            answer = await self._client.upload_part(**place, PartNumber=number, Body=io.BytesIO(part))
            return str(answer["ETag"])

    async def size(self, key: str) -> int:
        with self._failures(key):
            answer = await self._client.head_object(Bucket=self.bucket, Key=key)
            return int(answer["ContentLength"])

    async def encryption_of(self, key: str) -> str:
        """Return how the store says that the object is encrypted, '' for not."""
        with self._failures(key):
            answer = await self._client.head_object(Bucket=self.bucket, Key=key)
            return str(answer.get("ServerSideEncryption", ""))

    async def delete(self, key: str) -> None:
        """Delete an object; one that is not there is no error."""
        with self._failures(key):
            await self._client.delete_object(Bucket=self.bucket, Key=key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose key starts with `prefix`, in key order."""
        with self._failures(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            async for page in pages:
                for item in page.get("Contents", ()):
                    yield ObjectInfo(item["Key"], item["Size"])

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        place = f"object store {self.settings.shown}, bucket {self.bucket}"
        try:
            yield
        except ClientError as error:
            problem = error.response.get("Error", {})
            if problem.get("Code") in ("NoSuchKey", "404", "NotFound"):
                raise ObjectMissing(f"{place}: no object {key}") from error
            raise StoreUnavailable(f"{place}: {problem.get('Code')}: {problem.get('Message')}") from error
        except (BotoCoreError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{place} did not answer: {type(error).__name__}") from error


class BlockingObjectStore:
    """The same store for worker threads: one daemon thread runs the event loop that all callers share."""

    def __init__(self, settings: S3Settings, bucket: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"object-store-{bucket}", daemon=True)
        self._thread.start()
        self._store = ObjectStore(settings, bucket)
        self._wait(self._store.start())

    def close(self) -> None:
        self._wait(self._store.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._wait(self._store.get_ranges(key, ranges))

    def put_file(self, key: str, path: Path) -> None:
        self._wait(self._store.put_file(key, path))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseExceptionGroup as group:
            # A parallel fetch that failed: the first failure speaks for the rest.
            raise group.exceptions[0] from group


def _read_part(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(PART_BYTES)


def split_location(location: str) -> tuple[str, str]:
    """Return (bucket, key) of an s3:// location."""
    parts = urlsplit(location)
    assert parts.scheme in ("s3", "s3a", "s3n"), location
    return parts.netloc, parts.path.lstrip("/")
