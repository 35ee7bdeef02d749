"""Metrics: the deployment guide's names, from the start, and cells that count."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orbit.chassis import metrics as names
from orbit.chassis.metrics import Metrics

GUIDE = """
orbit_storage_hot_tier_size_bytes orbit_storage_warm_tier_size_bytes orbit_storage_cold_tier_size_bytes
orbit_storage_tier_migration_total orbit_storage_operations_total orbit_storage_operation_duration_seconds
orbit_transactions_active orbit_transactions_total orbit_transaction_duration_seconds
orbit_transaction_conflicts_total orbit_deadlocks_detected_total
orbit_cluster_nodes_total orbit_cluster_leader_changes_total orbit_cluster_replication_lag_ms
orbit_raft_heartbeat_failures_total
orbit_query_execution_duration_seconds orbit_query_rows_scanned_total orbit_query_cache_hits_total
orbit_simd_operations_total
"""


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_every_name_of_the_guide_is_there_before_anything_happened() -> None:
    text = Metrics({"storage", "coordinator", "gateway", "cdc", "migrator"}).exposition().decode()
    for name in GUIDE.split():
        assert f"# TYPE {name} " in text, name
        assert any(line.startswith(name) for line in text.splitlines()), name


def test_the_labels_of_the_guide_are_there_too() -> None:
    samples = scrape(Metrics({"storage"}))
    for status in ("committed", "aborted"):
        assert samples["orbit_transactions_total", (("status", status),)] == 0
    for tier in ("hot", "warm", "cold"):
        for operation in ("read", "write"):
            labels = (("operation", operation), ("tier", tier))
            assert samples["orbit_storage_operations_total", labels] == 0
            assert samples["orbit_storage_operation_duration_seconds_count", labels] == 0


def test_a_process_shows_only_what_its_services_own() -> None:
    gateway = Metrics({"gateway"})
    assert "orbit_transactions_total" not in gateway.exposition().decode()
    with pytest.raises(KeyError, match="orbit_transactions_total"):
        gateway.counter(names.TRANSACTIONS, status="committed")
    coordinator = Metrics({"coordinator"}).exposition().decode()
    assert "orbit_cluster_nodes_total" in coordinator and "orbit_transactions_total" not in coordinator


def test_cells_count() -> None:
    metrics = Metrics({"storage"})
    committed = metrics.counter(names.TRANSACTIONS, status="committed")
    committed.value += 3
    metrics.feed(names.TRANSACTIONS, lambda: 4.0, status="committed")
    metrics.feed(names.TRANSACTIONS, lambda: 5.0, status="committed")
    metrics.gauge(names.TRANSACTIONS_ACTIVE).value = 7
    metrics.feed(names.HOT_TIER_SIZE, lambda: 1e9)
    samples = scrape(metrics)
    assert samples["orbit_transactions_total", (("status", "committed"),)] == 12
    assert samples["orbit_transactions_total", (("status", "aborted"),)] == 0
    assert samples["orbit_transactions_active", ()] == 7
    assert samples["orbit_storage_hot_tier_size_bytes", ()] == 1e9
    with pytest.raises(ValueError, match="fed already"):
        metrics.feed(names.HOT_TIER_SIZE, lambda: 2e9)


def test_a_histogram_counts_into_its_buckets() -> None:
    metrics = Metrics({"storage"})
    durations = metrics.histogram(names.TRANSACTION_DURATION)
    for value in (0.000_05, 0.0007, 0.0008, 99.0):
        durations.observe(value)
    samples = scrape(metrics)
    name = "orbit_transaction_duration_seconds"
    assert samples[f"{name}_count", ()] == 4
    assert samples[f"{name}_sum", ()] == pytest.approx(99.00155)
    assert samples[f"{name}_bucket", (("le", "5e-05"),)] == 1
    assert samples[f"{name}_bucket", (("le", "0.0005"),)] == 1
    assert samples[f"{name}_bucket", (("le", "0.001"),)] == 3
    assert samples[f"{name}_bucket", (("le", "10.0"),)] == 3
    assert samples[f"{name}_bucket", (("le", "+Inf"),)] == 4


def test_labels_must_be_those_declared() -> None:
    metrics = Metrics({"storage"})
    with pytest.raises(KeyError):
        metrics.counter(names.TRANSACTIONS)
    with pytest.raises(KeyError):
        metrics.counter(names.TRANSACTIONS, status="lost")
