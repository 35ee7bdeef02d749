"""Iceberg: the only home of PyIceberg.

    schema     SQL types to Iceberg and file columns, and back
    warehouse  where tables are: catalog, file system, credentials; every failure becomes `StoreUnavailable`
    table      one table: its history of snapshots, and commits that assert their parent
    files      the data files of a snapshot, and writing new ones
    file_io    durable local writes, encrypted S3 writes

All of it blocks: callers use worker threads. Nothing here knows what a move or a segment is.
"""
