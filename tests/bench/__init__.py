"""Measures the engine beside PostgreSQL 15, Redis 7 and DuckDB, in one run on one machine: `python -m tests.bench`.

Owns the workloads and the table that they make. It gates nothing: a figure is worth what the machine was doing.
"""
