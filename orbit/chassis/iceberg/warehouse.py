"""Where Iceberg tables live: a catalog that names them and a file system that holds their files.

Owns the translation of settings to PyIceberg's properties, connections, and the mapping of what PyIceberg, SQLAlchemy
and pyarrow raise to `StoreUnavailable`. Connects at first use, never in the constructor.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

import pyarrow.fs as pafs
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NotInstalledError,
    RESTError,
    TableAlreadyExistsError,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table as PyIcebergTable
from pyiceberg.table.locations import load_location_provider
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from orbit.chassis.iceberg.file_io import (
    AZURE_SCHEMES,
    ENCRYPTION_PROPERTY,
    IMPLEMENTATION,
    KMS_KEY_PROPERTY,
    OrbitFileIO,
)
from orbit.chassis.iceberg.table import CommitConflict, IcebergTable
from orbit.chassis.object_store import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, S3Settings
from orbit.kernel.errors import NotSupported, StoreUnavailable

CATALOG_NAME: Final = "orbit"
POSTGRESQL_SCHEMES: Final = ("postgresql", "postgres")
Identifier = tuple[str, str]
"""(namespace, name)."""

TABLE_PROPERTIES: Final = {
    "write.parquet.compression-codec": "zstd",
    # One manifest for each move would slow planning down; merge them once there are a hundred.
    "commit.manifest-merge.enabled": "true",
}


@dataclass(frozen=True, slots=True)
class AzureSettings:
    """An Azure Blob account. `endpoint` (URL) is only for an emulator or a private cloud."""

    account: str
    access_key: str = field(default="", repr=False)
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class WarehouseSettings:
    """One warehouse.

    `location` is a folder or a URI (file, s3, abfss), without a slash at its end. `catalog_uri` is a SQLAlchemy URL
    (sqlite:///.., postgresql://..) or the REST catalog's URL. A REST catalog chooses table locations by itself, and
    `location` is then what it calls the warehouse; it takes a bearer `token`, or an OAuth2 `credential` (id:secret).
    """

    location: str
    catalog: Literal["sqlite", "postgresql", "rest"]
    catalog_uri: str = field(repr=False)
    token: str = field(default="", repr=False)
    credential: str = field(default="", repr=False)
    s3: S3Settings | None = None
    azure: AzureSettings | None = None


class Warehouse:
    """A catalog and its file system. Thread-safe. Methods raise StoreUnavailable naming the part that failed."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self.settings = settings
        self.location = _with_scheme(settings.location, settings.catalog)
        self.io = self._file_io()
        self._catalog: Catalog | None = None
        self._lock = threading.Lock()

    @property
    def shown(self) -> str:
        """The warehouse's name in messages, without secrets."""
        store = f" on {self.settings.s3.shown}" if self.settings.s3 else ""
        if self.settings.azure is not None:
            store = f" of azure account {self.settings.azure.account}"
        return f"warehouse {self.location}{store}"

    @property
    def catalog_shown(self) -> str:
        """The catalog's name in messages, without secrets."""
        return f"{self.settings.catalog} catalog {_without_password(self.settings.catalog_uri)}"

    def close(self) -> None:
        """Close the catalog's connections. The warehouse opens them again when it is used again."""
        with self._lock:
            if self._catalog is not None:
                self._catalog.close()
                self._catalog = None

    def probe(self) -> None:
        """Raise StoreUnavailable unless both the catalog and the file system answer."""
        catalog = self._connected()
        with self.failures():
            catalog.list_namespaces()
        if self.settings.catalog == "rest":
            return
        with self.failures():
            self.io.new_input(f"{self.location}/probe").exists()

    def table(self, identifier: Identifier) -> IcebergTable | None:
        """Return the table of that name as it is now, or None."""
        catalog = self._connected()
        with self.failures():
            try:
                return self._wrapped(catalog.load_table(identifier))
            except NoSuchTableError:
                return None

    def identifiers(self) -> list[Identifier]:
        """Return the names of all tables."""
        catalog = self._connected()
        with self.failures():
            spaces = [space for space in catalog.list_namespaces() if len(space) == 1]
            names = [name for space in spaces for name in catalog.list_tables(space)]
        return [(name[0], name[-1]) for name in names]

    def create(
        self, identifier: Identifier, schema: Schema, folder: str, properties: Mapping[str, str]
    ) -> IcebergTable | None:
        """Create a table in `folder` under the warehouse. Returns None when one of that name exists.

        Some REST catalogs answer with the table that exists: look at its properties before you trust it.
        PyIceberg numbers the fields of a new table by itself; the commit that follows puts our numbers back.
        """
        catalog = self._connected()
        with self.failures():
            self._ensure_namespace(catalog, identifier[0])
            where = None if self.settings.catalog == "rest" else f"{self.location}/{folder}"
            try:
                made = catalog.create_table(identifier, schema, where, properties={**TABLE_PROPERTIES, **properties})
            except TableAlreadyExistsError:
                return None
        table = self._wrapped(made)
        table.evolve(schema)
        return table

    def rename(self, identifier: Identifier, new: Identifier) -> IcebergTable:
        """Rename a table. Raises CommitConflict when it is gone or the new name is taken by now."""
        catalog = self._connected()
        with self.failures():
            self._ensure_namespace(catalog, new[0])
            try:
                return self._wrapped(catalog.rename_table(identifier, new))
            except (NoSuchTableError, TableAlreadyExistsError) as error:
                raise CommitConflict(str(error)) from error

    def register(self, identifier: Identifier, metadata_location: str) -> IcebergTable:
        """Name a table that the catalog has lost, from its metadata file. Raises CommitConflict for a taken name."""
        catalog = self._connected()
        with self.failures():
            self._ensure_namespace(catalog, identifier[0])
            try:
                return self._wrapped(catalog.register_table(identifier, metadata_location))
            except TableAlreadyExistsError as error:
                raise CommitConflict(str(error)) from error

    def data_location(self, table: IcebergTable, name: str) -> str:
        """Return where a table's data file of this name goes."""
        metadata = table.metadata
        return load_location_provider(metadata.location, metadata.properties).new_data_location(name)

    def delete(self, location: str) -> None:
        """Delete one file; one that is not there is no error."""
        with self.failures():
            try:
                self.io.delete(location)
            except FileNotFoundError:
                return

    def list_folder(self, location: str) -> list[str]:
        """Return the locations of the files in a folder (not below), empty when there is none."""
        with self.failures():
            scheme, host, path = self.io.parse_location(location, self.io.properties)
            found = self.io.fs_by_scheme(scheme, host).get_file_info(pafs.FileSelector(path, allow_not_found=True))
            return [f"{location}/{info.base_name}" for info in found if info.type == pafs.FileType.File]

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn what the libraries below raise into StoreUnavailable. Our own errors and conflicts pass."""
        try:
            yield
        except (OSError, SQLAlchemyError, RESTError, NoSuchNamespaceError, NotInstalledError) as error:
            # A REST catalog says that it has no such namespace when it has no such warehouse.
            of_catalog = isinstance(error, (SQLAlchemyError, RESTError, NoSuchNamespaceError, RequestException))
            part = self.catalog_shown if of_catalog else self.shown
            # The text of SQLAlchemy's errors may hold the URL, and so a password: only their class is shown.
            text = type(error).__name__ if isinstance(error, SQLAlchemyError) else f"{type(error).__name__}: {error}"
            raise StoreUnavailable(f"{part} is not available: {text[:300]}") from error

    def _connected(self) -> Catalog:
        with self._lock:
            if self._catalog is None:
                with self.failures():
                    self._catalog = self._connect()
            return self._catalog

    def _connect(self) -> Catalog:
        settings = self.settings
        properties = {**self.io.properties, "uri": settings.catalog_uri, "warehouse": self.location}
        if settings.catalog == "rest":
            secrets = {"token": settings.token, "credential": settings.credential}
            properties |= {name: secret for name, secret in secrets.items() if secret}
            return RestCatalog(CATALOG_NAME, **properties)
        parts = urlsplit(settings.catalog_uri)
        if settings.catalog == "sqlite":
            Path(parts.path[1:]).parent.mkdir(parents=True, exist_ok=True)
        elif parts.scheme in POSTGRESQL_SCHEMES:
            properties["uri"] = urlunsplit(parts._replace(scheme="postgresql+psycopg"))
            properties["pool_pre_ping"] = "true"
        return SqlCatalog(CATALOG_NAME, **properties)

    def _file_io(self) -> OrbitFileIO:
        scheme = urlsplit(self.location).scheme
        if scheme in AZURE_SCHEMES and not hasattr(pafs, "AzureFileSystem"):
            raise NotSupported(f"{self.shown}: this build of pyarrow has no AzureFileSystem")
        return OrbitFileIO(_io_properties(self.settings))

    def _ensure_namespace(self, catalog: Catalog, namespace: str) -> None:
        try:
            catalog.create_namespace_if_not_exists((namespace,))
        except (NamespaceAlreadyExistsError, SQLAlchemyError):
            # Somebody made it between the look and the making (SQL catalogs: a duplicate key).
            if not catalog.namespace_exists((namespace,)):
                raise

    def _wrapped(self, table: PyIcebergTable) -> IcebergTable:
        return IcebergTable(table, self.failures)


def _io_properties(settings: WarehouseSettings) -> dict[str, str]:
    properties = {"py-io-impl": IMPLEMENTATION}
    if (s3 := settings.s3) is not None:
        properties |= {
            "s3.endpoint": s3.endpoint,
            "s3.region": s3.region,
            "s3.access-key-id": s3.access_key,
            "s3.secret-access-key": s3.secret_key,
            "s3.session-token": s3.session_token,
            "s3.connect-timeout": str(CONNECT_TIMEOUT_S),
            "s3.request-timeout": str(READ_TIMEOUT_S),
            "s3.force-virtual-addressing": "" if not s3.endpoint else str(not s3.path_style).lower(),
        }
        properties |= {ENCRYPTION_PROPERTY: s3.server_side_encryption, KMS_KEY_PROPERTY: s3.kms_key_id}
    if (azure := settings.azure) is not None:
        parts = urlsplit(azure.endpoint)
        properties |= {
            "adls.account-name": azure.account,
            "adls.account-key": azure.access_key,
            "adls.blob-storage-authority": parts.netloc,
            "adls.blob-storage-scheme": parts.scheme,
            "adls.dfs-storage-authority": parts.netloc,
            "adls.dfs-storage-scheme": parts.scheme,
        }
    return {key: value for key, value in properties.items() if value}


def _with_scheme(location: str, catalog: str) -> str:
    """Return a folder as a file:// location; URIs, and a REST catalog's own names, stay as they are.

    Iceberg's file locations are not percent-encoded: every reader takes what follows the scheme as the path.
    """
    if "://" not in location and catalog != "rest":
        location = f"file://{Path(location).absolute()}"
    if set(location) & set("#?%"):
        raise NotSupported(f"warehouse {location}: readers of Iceberg disagree on locations with #, ? or % in them")
    return location.rstrip("/")


def _without_password(uri: str) -> str:
    parts: Any = urlsplit(uri)
    if parts.password is None and parts.username is None:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return str(urlunsplit(parts._replace(netloc=host, query="")))
