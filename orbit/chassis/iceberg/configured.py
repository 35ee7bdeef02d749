"""The warehouse that the configuration describes. Owns the translation of settings, nothing else."""

from __future__ import annotations

from orbit.chassis.config import Config
from orbit.chassis.iceberg.warehouse import AzureSettings, WarehouseSettings
from orbit.chassis.object_store import S3Settings

CREDENTIAL_MARK = ":"


def warehouse_settings(config: Config) -> WarehouseSettings:
    """Return the settings of the cold tier's warehouse.

    A token of the form `id:secret` is an OAuth2 client credential; any other is a bearer token, which has no colon.
    """
    iceberg, backend = config.iceberg, config.storage.backend
    token = iceberg.token.get_secret_value()
    is_credential = CREDENTIAL_MARK in token
    return WarehouseSettings(
        location=iceberg.warehouse,
        catalog=iceberg.catalog,
        catalog_uri=iceberg.uri,
        token="" if is_credential else token,
        credential=token if is_credential else "",
        s3=s3_settings(config) if backend in ("s3", "minio") else None,
        azure=_azure_settings(config) if backend == "azure" else None,
    )


def s3_settings(config: Config) -> S3Settings:
    """Return how to reach the configured S3-compatible store. Raises ValueError when the backend is none."""
    store = config.storage.object_store()
    return S3Settings(
        endpoint=store.endpoint,
        region=store.region,
        access_key=store.access_key.get_secret_value(),
        secret_key=store.secret_key.get_secret_value(),
        session_token=store.session_token.get_secret_value(),
        path_style=store.path_style,
        server_side_encryption=store.server_side_encryption,
    )


def _azure_settings(config: Config) -> AzureSettings:
    azure = config.storage.azure
    return AzureSettings(azure.account, azure.access_key.get_secret_value(), azure.endpoint)
