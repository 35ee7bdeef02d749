"""TLS contexts from certificate files, with errors that name the file and what is wrong with it.

Owns loading. Who must show a certificate is the caller's choice; nothing here turns verification off.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


class TlsMisconfigured(Exception):
    """A certificate, key or authority file cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: a certificate chain, its private key, and the authority that signs the other side's."""

    cert_path: Path
    key_path: Path
    ca_path: Path | None = None


def tls_files(cert_path: str, key_path: str, ca_path: str = "") -> TlsFiles | None:
    """Return the configured files; None when none is. Raises TlsMisconfigured for one without the other."""
    if not cert_path and not key_path and not ca_path:
        return None
    if not cert_path or not key_path:
        missing = "key_path" if cert_path else "cert_path"
        raise TlsMisconfigured(f"tls {missing} is missing: a certificate and its key go together")
    return TlsFiles(Path(cert_path), Path(key_path), Path(ca_path) if ca_path else None)


def server_context(files: TlsFiles, *, require_client_certificate: bool = False) -> ssl.SSLContext:
    """Return the context of a listener: TLS 1.2 or later. Raises TlsMisconfigured."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, files)
    if require_client_certificate:
        if files.ca_path is None:
            raise TlsMisconfigured("tls ca_cert_path is missing: client certificates need an authority to check them")
        _load_authority(context, files.ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles | None = None, *, ca_path: Path | None = None) -> ssl.SSLContext:
    """Return the context of a connection: verifies the server and its name, by the authority or the system's own.

    `files` also shows our certificate. Raises TlsMisconfigured.
    """
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority = ca_path or (files.ca_path if files else None)
    if authority is not None:
        _load_authority(context, authority)
    if files is not None:
        _load_certificate(context, files)
    return context


def read_pem(path: Path, what: str) -> bytes:
    """Return a PEM file's bytes, for libraries that take those. Raises TlsMisconfigured."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsMisconfigured(f"tls {what} {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise TlsMisconfigured(f"tls {what} {path} is not a PEM file")
    return data


def _load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    read_pem(files.cert_path, "certificate")
    read_pem(files.key_path, "key")
    try:
        context.load_cert_chain(files.cert_path, files.key_path, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsMisconfigured(f"tls key {files.key_path} does not belong to {files.cert_path}") from error
        raise TlsMisconfigured(f"tls certificate {files.cert_path} or key {files.key_path}: {error}") from error
    except _EncryptedKey as error:
        raise TlsMisconfigured(f"tls key {files.key_path} is encrypted: give it without a passphrase") from error


def _load_authority(context: ssl.SSLContext, path: Path) -> None:
    read_pem(path, "authority")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise TlsMisconfigured(f"tls authority {path}: {error}") from error


class _EncryptedKey(Exception):
    pass


def _refuse_password() -> str:
    """Instead of a prompt at the terminal."""
    raise _EncryptedKey
