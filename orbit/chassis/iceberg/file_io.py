"""PyIceberg's file IO with the two things that pyarrow's file systems lack when they write.

- A local file is on the disk, with its folder entry, once it is closed. The catalog must never name a file that a
  power loss can take away: rows leave RocksDB on the word of that catalog.
- An S3 object carries server-side encryption headers when they are asked for. It is spooled to a temporary file and
  uploaded by the object-store client when the stream closes.

Reading is pyarrow's own.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from pyiceberg.io import InputFile, OutputFile, OutputStream
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from orbit.chassis.object_store import BlockingObjectStore, S3Settings, split_location

IMPLEMENTATION: Final = f"{__name__}.OrbitFileIO"
"""The value of PyIceberg's `py-io-impl`."""

AZURE_SCHEMES: Final = ("abfs", "abfss", "wasb", "wasbs")
ENCRYPTION_PROPERTY: Final = "s3.server-side-encryption"
KMS_KEY_PROPERTY: Final = "s3.sse-kms-key-id"


class OrbitFileIO(PyArrowFileIO):
    """PyArrow's file IO with durable local writes and encrypted S3 writes."""

    @staticmethod
    def parse_location(location: str, properties: Properties = EMPTY_DICT) -> tuple[str, str, str]:
        """Return (scheme, host, path). pyarrow wants Azure's abfss://container@account../path as container/path."""
        scheme, host, path = PyArrowFileIO.parse_location(location, properties)
        if scheme in AZURE_SCHEMES and "@" in host:
            container = host.partition("@")[0]
            return scheme, host, container + path.removeprefix(host)
        return scheme, host, path

    def new_output(self, location: str) -> OutputFile:  # type: ignore[override]
        plain = super().new_output(location)
        scheme, _, path = self.parse_location(location, self.properties)
        if scheme == "file":
            return _Output(plain, lambda: _LocalFile(Path(path)))
        if scheme in ("s3", "s3a", "s3n") and ENCRYPTION_PROPERTY in self.properties:
            settings = _s3_settings(self.properties)
            return _Output(plain, lambda: _Upload(location, settings))
        return plain


class _Output(OutputFile):
    """An output location whose stream is ours."""

    def __init__(self, plain: OutputFile, make: Any) -> None:
        super().__init__(plain.location)
        self._plain = plain
        self._make = make

    def __len__(self) -> int:
        return len(self._plain)

    def exists(self) -> bool:
        return self._plain.exists()

    def to_input_file(self) -> InputFile:
        return self._plain.to_input_file()

    def create(self, overwrite: bool = False) -> OutputStream:
        if not overwrite and self.exists():
            raise FileExistsError(f"cannot create file, already exists: {self.location}")
        stream: OutputStream = self._make()
        return stream


class _Stream:
    """A writable stream over a local file that does something more when it is closed without an error."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.closed = False

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        with self._file:
            self._file.flush()
            self._complete()

    def discard(self) -> None:
        """Close without completing."""
        self.closed = True
        self._file.close()

    def _complete(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()


class _LocalFile(_Stream):
    def __init__(self, path: Path) -> None:
        self._folders = [path.parent]
        while not self._folders[-1].exists():
            self._folders.append(self._folders[-1].parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path.open("wb"))

    def _complete(self) -> None:
        os.fsync(self._file.fileno())
        for folder in self._folders:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class _Upload(_Stream):
    def __init__(self, location: str, settings: S3Settings) -> None:
        self._bucket, self._key = split_location(location)
        self._settings = settings
        spool: Any = tempfile.NamedTemporaryFile(prefix="orbit-upload-")  # noqa: SIM115 - closed by close()
        super().__init__(spool)

    def _complete(self) -> None:
        _store(self._settings, self._bucket).put_file(self._key, Path(self._file.name))


def _s3_settings(properties: dict[str, str]) -> S3Settings:
    return S3Settings(
        endpoint=properties.get("s3.endpoint", ""),
        region=properties.get("s3.region", ""),
        access_key=properties.get("s3.access-key-id", ""),
        secret_key=properties.get("s3.secret-access-key", ""),
        session_token=properties.get("s3.session-token", ""),
        path_style=properties.get("s3.force-virtual-addressing") == "false",
        server_side_encryption=properties[ENCRYPTION_PROPERTY],
        kms_key_id=properties.get(KMS_KEY_PROPERTY, ""),
    )


@cache
def _store(settings: S3Settings, bucket: str) -> BlockingObjectStore:
    """One client for all streams of a bucket: making one takes 0.1 s and a thread. It lives as long as the process."""
    store = BlockingObjectStore(settings, bucket)
    atexit.register(store.close)
    return store
