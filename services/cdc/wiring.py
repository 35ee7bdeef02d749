"""From the configuration to the cdc service. Owns that translation; nothing connects before the service starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from orbit.chassis.config import Config
from orbit.chassis.metrics import CDC_EVENTS, CDC_SHIPPED, CDC_SHIPPING_LAG, CDC_STREAM_LAG, Metrics
from orbit.chassis.nats import NatsConnection, NatsOptions
from orbit.chassis.rpc import open_channel
from orbit.chassis.tls import TlsFiles, client_context, tls_files
from orbit.kernel.clock import SystemClock
from orbit.kernel.ids import DEFAULT_SHARD
from services.cdc.feed import Feed
from services.cdc.service import CdcService, Parts
from services.cdc.sinks.interface import Sink
from services.cdc.sinks.jetstream import EventStream, StreamSettings
from services.cdc.sinks.region import RegionSink, parse_target
from services.cdc.sinks.stream import StreamSink
from services.cdc.turns import REST_S
from services.storage.client import read_log

if TYPE_CHECKING:
    import grpc.aio

    from orbit.chassis.nats_server import NatsServer

HOUR_S = 3600


def nats_options(config: Config, server: NatsServer | None) -> NatsOptions:
    """Return how to reach NATS: the child server of this process, or the configured ones."""
    if server is not None:
        application = server.application
        return NatsOptions((server.url,), application.user, application.password, name="cdc")
    log = config.log
    tls = client_context(_tls(config)) if any(url.startswith("tls://") for url in log.urls) else None
    return NatsOptions(log.urls, log.user, log.password.get_secret_value(), tls, name="cdc")


def make_cdc(config: Config, server: NatsServer | None, metrics: Metrics) -> CdcService:
    """Return the service, not started. Raises ValueError for a target that cannot be, TlsMisconfigured."""
    tls = _tls(config)
    for target in config.cdc.replication_targets:
        if parse_target(target)[1] and tls is None:
            raise ValueError(f"cdc.replication_targets (CDC_REPLICATION_TARGETS): {target} needs security.tls")

    def channel(address: str, secure: bool) -> grpc.aio.Channel:
        return open_channel(address, tls=tls if secure else None)

    async def connect() -> Parts:
        # `server` has its address and passwords only now that it runs.
        connection = NatsConnection(nats_options(config, server))
        await connection.connect()
        reader = read_log(connection, region=config.region.name, shard=DEFAULT_SHARD)
        stream = StreamSettings(
            config.region.name,
            replicas=config.log.replicas,
            max_bytes=config.cdc.stream_max_bytes,
            max_age_s=config.cdc.stream_max_age_hours * HOUR_S,
        )
        sinks: list[Sink] = [StreamSink(EventStream(connection, stream))]
        sinks += [
            RegionSink(
                target,
                config.region.name,
                channel,
                reader,
                batch_size=config.cdc.batch_size,
                flush_interval_ms=config.cdc.flush_interval_ms,
            )
            for target in config.cdc.replication_targets
        ]
        folder = Path(config.node.data_dir) / "cdc"
        rest_s = REST_S if {"gateway", "storage"} & set(config.node.roles) else 0.0
        clock = SystemClock()
        feeds = [Feed(sink, reader, clock, folder / _file_name(sink.name), rest_s=rest_s) for sink in sinks]
        return Parts(reader, feeds, connection.close)

    service = CdcService(connect)
    metrics.feed(CDC_EVENTS, lambda: service.events_published)
    metrics.feed(CDC_SHIPPED, lambda: service.transactions_shipped)
    metrics.feed(CDC_STREAM_LAG, service.stream_lag_ms)
    metrics.feed(CDC_SHIPPING_LAG, service.shipping_lag_ms)
    return service


def _tls(config: Config) -> TlsFiles | None:
    tls = config.security.tls
    return tls_files(tls.cert_path, tls.key_path, tls.ca_cert_path)


def _file_name(sink: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", sink) + ".bookmark"
