"""Metrics: every name the engine exposes, and cells that cost a hot path one addition.

Owns the declarations (`DECLARED`: name, kind, labels, owners) and the registry of one process. A cell is a plain
object with a number; Prometheus families are built from the cells when somebody scrapes. Cells belong to the event
loop's thread: another thread counts for itself and lends its number through `feed`.

The names and labels of the deployment guide are a contract with dashboards and alerts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, product
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S: Final = (
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0
)  # fmt: skip
"""From a point read in memory to the slowest analytical query."""

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric. `labels` lists every value that each label can have, so that all series exist from the start."""

    name: str
    kind: Kind
    help: str
    owners: frozenset[str]
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = LATENCY_BUCKETS_S


def _declare(kind: Kind, name: str, owners: str, text: str, **labels: tuple[str, ...]) -> Declaration:
    return Declaration(name, kind, text, frozenset(owners.split()), tuple(labels.items()))


_TIERS: Final = ("hot", "warm", "cold")

HOT_TIER_SIZE: Final = _declare(
    Kind.GAUGE, "orbit_storage_hot_tier_size_bytes", "storage", "Bytes of row versions served from memory"
)
WARM_TIER_SIZE: Final = _declare(
    Kind.GAUGE, "orbit_storage_warm_tier_size_bytes", "storage", "Bytes of segments served from RocksDB"
)
COLD_TIER_SIZE: Final = _declare(
    Kind.GAUGE, "orbit_storage_cold_tier_size_bytes", "storage", "Bytes of Iceberg data files that tables refer to"
)
TIER_MIGRATIONS: Final = _declare(
    Kind.COUNTER,
    "orbit_storage_tier_migration_total",
    "storage migrator",
    "Moves of rows from one tier to another that were completed",
)
STORAGE_OPERATIONS: Final = _declare(
    Kind.COUNTER,
    "orbit_storage_operations_total",
    "storage",
    "Reads and writes of rows, by the tier that served them",
    tier=_TIERS,
    operation=("read", "write"),
)
STORAGE_OPERATION_DURATION: Final = _declare(
    Kind.HISTOGRAM,
    "orbit_storage_operation_duration_seconds",
    "storage",
    "Time of reads and writes of rows, by the tier that served them",
    tier=_TIERS,
    operation=("read", "write"),
)
TRANSACTIONS_ACTIVE: Final = _declare(
    Kind.GAUGE, "orbit_transactions_active", "storage", "Transactions that have begun and not ended"
)
TRANSACTIONS: Final = _declare(
    Kind.COUNTER,
    "orbit_transactions_total",
    "storage",
    "Transactions that have ended",
    status=("committed", "aborted"),
)
TRANSACTION_DURATION: Final = _declare(
    Kind.HISTOGRAM, "orbit_transaction_duration_seconds", "storage", "Time from a transaction's begin to its end"
)
TRANSACTION_CONFLICTS: Final = _declare(
    Kind.COUNTER,
    "orbit_transaction_conflicts_total",
    "storage",
    "Transactions aborted because they conflict with another (SQLSTATE 40001)",
)
DEADLOCKS: Final = _declare(
    Kind.COUNTER, "orbit_deadlocks_detected_total", "storage", "Deadlocks that were broken (SQLSTATE 40P01)"
)
CLUSTER_NODES: Final = _declare(
    Kind.GAUGE, "orbit_cluster_nodes_total", "storage coordinator", "Storage nodes that are alive, as seen from here"
)
LEADER_CHANGES: Final = _declare(
    Kind.COUNTER,
    "orbit_cluster_leader_changes_total",
    "storage coordinator",
    "Changes of leadership seen since this process started",
)
REPLICATION_LAG: Final = _declare(
    Kind.GAUGE,
    "orbit_cluster_replication_lag_ms",
    "storage coordinator",
    "Milliseconds behind the leader: a follower's own, elsewhere the worst follower's",
)
HEARTBEAT_FAILURES: Final = _declare(
    Kind.COUNTER,
    "orbit_raft_heartbeat_failures_total",
    "storage coordinator",
    "Keep-alives of this process's lease that failed",
)
QUERY_DURATION: Final = _declare(
    Kind.HISTOGRAM, "orbit_query_execution_duration_seconds", "storage", "Time to execute one statement"
)
QUERY_ROWS_SCANNED: Final = _declare(
    Kind.COUNTER, "orbit_query_rows_scanned_total", "storage", "Rows read by statements, in any tier"
)
QUERY_CACHE_HITS: Final = _declare(
    Kind.COUNTER, "orbit_query_cache_hits_total", "storage", "Statements that found their plan in the plan cache"
)
SIMD_OPERATIONS: Final = _declare(
    Kind.COUNTER,
    "orbit_simd_operations_total",
    "storage",
    "Column batches processed by the vectorized kernels of Arrow and DuckDB, which use the CPU's SIMD instructions",
)

CDC_EVENTS: Final = _declare(
    Kind.COUNTER, "orbit_cdc_events_total", "cdc", "Change events that this process has published"
)
CDC_SHIPPED: Final = _declare(
    Kind.COUNTER, "orbit_cdc_shipped_transactions_total", "cdc", "Transactions that other regions have acknowledged"
)
CDC_STREAM_LAG: Final = _declare(
    Kind.GAUGE, "orbit_cdc_stream_lag_ms", "cdc", "Milliseconds that the change stream is behind the log"
)
CDC_SHIPPING_LAG: Final = _declare(
    Kind.GAUGE,
    "orbit_cdc_shipping_lag_ms",
    "cdc",
    "Milliseconds that the worst target region is behind the log: what the loss of this region would lose now",
)

DECLARED: Final = tuple(value for value in list(globals().values()) if isinstance(value, Declaration))


@dataclass(slots=True)
class Counter:
    """`counter.value += n` is all that a hot path does."""

    value: float = 0
    feeds: list[Callable[[], float]] = field(default_factory=list)

    def read(self) -> float:
        return self.value + sum(feed() for feed in self.feeds)


@dataclass(slots=True)
class Gauge:
    """`gauge.value = n`, or a feed that is asked at each scrape."""

    value: float = 0
    feed: Callable[[], float] | None = None

    def read(self) -> float:
        return self.value if self.feed is None else self.feed()


class Histogram:
    """`histogram.observe(seconds)`: one binary search and two additions."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def read(self) -> list[tuple[str, float]]:
        """Return the cumulative buckets as Prometheus wants them."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


Cell = Counter | Gauge | Histogram


class Metrics:
    """The registry of one process: the metrics of the services that run in it, all present from the start at zero."""

    def __init__(self, services: Iterable[str], *, process_metrics: bool = True) -> None:
        running = frozenset(services)
        self.registry = CollectorRegistry()
        self._cells: dict[Declaration, dict[tuple[str, ...], Cell]] = {
            declaration: {values: _cell(declaration) for values in product(*(v for _, v in declaration.labels))}
            for declaration in DECLARED
            if declaration.owners & running
        }
        self.registry.register(_Families(self._cells))
        if process_metrics:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
            GCCollector(registry=self.registry)

    def counter(self, declaration: Declaration, **labels: str) -> Counter:
        """Return the counter of these labels; keep it. Raises KeyError for what is not declared or not ours."""
        cell = self._cell(declaration, labels)
        assert isinstance(cell, Counter)
        return cell

    def gauge(self, declaration: Declaration, **labels: str) -> Gauge:
        """Return the gauge of these labels; keep it. Raises KeyError for what is not declared or not ours."""
        cell = self._cell(declaration, labels)
        assert isinstance(cell, Gauge)
        return cell

    def histogram(self, declaration: Declaration, **labels: str) -> Histogram:
        """Return the histogram of these labels; keep it. Raises KeyError for what is not declared or not ours."""
        cell = self._cell(declaration, labels)
        assert isinstance(cell, Histogram)
        return cell

    def feed(self, declaration: Declaration, read: Callable[[], float], **labels: str) -> None:
        """Ask `read` at each scrape: a gauge's value, or what it adds to a counter. A gauge takes one feed."""
        cell = self._cell(declaration, labels)
        assert not isinstance(cell, Histogram)
        if isinstance(cell, Counter):
            cell.feeds.append(read)
        elif cell.feed is not None:
            raise ValueError(f"{declaration.name} is fed already")
        else:
            cell.feed = read

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)

    def _cell(self, declaration: Declaration, labels: dict[str, str]) -> Cell:
        names = tuple(name for name, _ in declaration.labels)
        if declaration not in self._cells or set(labels) != set(names):
            raise KeyError(f"{declaration.name} with labels {sorted(labels)} is not a metric of this process")
        return self._cells[declaration][tuple(labels[name] for name in names)]


def _cell(declaration: Declaration) -> Cell:
    if declaration.kind is Kind.COUNTER:
        return Counter()
    if declaration.kind is Kind.GAUGE:
        return Gauge()
    return Histogram(declaration.buckets)


class _Families:
    """Builds Prometheus's families from the cells, at each scrape."""

    def __init__(self, cells: dict[Declaration, dict[tuple[str, ...], Cell]]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Metric]:
        for declaration, cells in self._cells.items():
            family = _family(declaration)
            for values, cell in cells.items():
                if isinstance(family, HistogramMetricFamily):
                    assert isinstance(cell, Histogram)
                    family.add_metric(values, cell.read(), cell.total)
                else:
                    assert not isinstance(cell, Histogram)
                    family.add_metric(values, cell.read())
            yield family

    def describe(self) -> Iterator[Metric]:
        return (_family(declaration) for declaration in self._cells)


def _family(declaration: Declaration) -> Family:
    names = [name for name, _ in declaration.labels]
    if declaration.kind is Kind.COUNTER:
        return CounterMetricFamily(declaration.name, declaration.help, labels=names)
    if declaration.kind is Kind.GAUGE:
        return GaugeMetricFamily(declaration.name, declaration.help, labels=names)
    return HistogramMetricFamily(declaration.name, declaration.help, labels=names)
