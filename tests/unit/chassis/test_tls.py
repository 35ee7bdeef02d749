"""TLS files: what works, and an error that names the file for each way in which it does not."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from orbit.chassis.tls import TlsFiles, TlsMisconfigured, client_context, server_context, tls_files
from tests.fixtures.fix_certificates import Certificates


async def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str = "127.0.0.1") -> str:
    """Return the TLS version that both agreed on. Raises OSError when they do not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server)
    try:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        with closing(writer):
            writer.write(b"hello\n")
            if await reader.readline() != b"hello\n":
                raise ConnectionError("the server closed the connection")
            return str(writer.get_extra_info("ssl_object").version())
    finally:
        listener.close()


async def test_both_sides_know_each_other(certificates: Certificates) -> None:
    server = server_context(certificates.server, require_client_certificate=True)
    assert await shake_hands(server, client_context(certificates.client)) == "TLSv1.3"


async def test_strangers_are_refused(certificates: Certificates) -> None:
    server = server_context(certificates.server, require_client_certificate=True)
    authority = certificates.server.ca_path
    stranger = client_context(replace(certificates.stranger, ca_path=authority))
    for client in (stranger, client_context(ca_path=authority)):
        with pytest.raises(OSError):
            await shake_hands(server, client)


async def test_the_server_must_be_who_it_says(certificates: Certificates) -> None:
    authority = certificates.server.ca_path
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(server_context(certificates.stranger), client_context(ca_path=authority))
    with pytest.raises(ssl.SSLCertVerificationError):
        await shake_hands(server_context(certificates.server), client_context(ca_path=authority), "other.example")


def test_nothing_configured_is_no_tls_and_half_is_an_error() -> None:
    assert tls_files("", "") is None
    assert tls_files("a", "b", "c") == TlsFiles(Path("a"), Path("b"), Path("c"))
    for arguments, missing in ((("a", ""), "key_path"), (("", "b"), "cert_path"), (("", "", "c"), "cert_path")):
        with pytest.raises(TlsMisconfigured, match=missing):
            tls_files(*arguments)


def test_each_file_that_cannot_be_used_is_named(certificates: Certificates, tmp_path: Path) -> None:
    good = certificates.server
    text = tmp_path / "text.pem"
    text.write_text("hello")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nxxxx\n-----END CERTIFICATE-----\n")
    for files, expected in (
        (replace(good, cert_path=tmp_path / "none.crt"), "none.crt cannot be read: No such file"),
        (replace(good, key_path=text), "text.pem is not a PEM file"),
        (replace(good, key_path=certificates.client.key_path), "client.key does not belong to .*server.crt"),
        (replace(good, cert_path=damaged), "damaged.pem"),
        (replace(good, key_path=certificates.encrypted_key), "encrypted.key is encrypted"),
        (replace(good, ca_path=damaged), "authority .*damaged.pem"),
        (replace(good, ca_path=None), "ca_cert_path is missing"),
    ):
        with pytest.raises(TlsMisconfigured, match=expected):
            server_context(files, require_client_certificate=True)
