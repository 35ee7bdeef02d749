from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SegmentTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_TIER_UNSPECIFIED: _ClassVar[SegmentTier]
    SEGMENT_TIER_HOT: _ClassVar[SegmentTier]
    SEGMENT_TIER_WARM: _ClassVar[SegmentTier]
    SEGMENT_TIER_COLD: _ClassVar[SegmentTier]
SEGMENT_TIER_UNSPECIFIED: SegmentTier
SEGMENT_TIER_HOT: SegmentTier
SEGMENT_TIER_WARM: SegmentTier
SEGMENT_TIER_COLD: SegmentTier

class StatisticsRequest(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class SegmentStatistics(_message.Message):
    __slots__ = ("table_id", "storage_id", "schema_version", "segment_id", "first_row_id", "last_row_id", "newest_lsn", "newest_change_us", "rows_alive", "size_bytes", "tier")
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    STORAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_VERSION_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_ROW_ID_FIELD_NUMBER: _ClassVar[int]
    NEWEST_LSN_FIELD_NUMBER: _ClassVar[int]
    NEWEST_CHANGE_US_FIELD_NUMBER: _ClassVar[int]
    ROWS_ALIVE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    table_id: int
    storage_id: int
    schema_version: int
    segment_id: int
    first_row_id: int
    last_row_id: int
    newest_lsn: int
    newest_change_us: int
    rows_alive: int
    size_bytes: int
    tier: SegmentTier
    def __init__(self, table_id: _Optional[int] = ..., storage_id: _Optional[int] = ..., schema_version: _Optional[int] = ..., segment_id: _Optional[int] = ..., first_row_id: _Optional[int] = ..., last_row_id: _Optional[int] = ..., newest_lsn: _Optional[int] = ..., newest_change_us: _Optional[int] = ..., rows_alive: _Optional[int] = ..., size_bytes: _Optional[int] = ..., tier: _Optional[_Union[SegmentTier, str]] = ...) -> None: ...

class StatisticsChunk(_message.Message):
    __slots__ = ("segments",)
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[SegmentStatistics]
    def __init__(self, segments: _Optional[_Iterable[_Union[SegmentStatistics, _Mapping]]] = ...) -> None: ...

class RowRange(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class SnapshotRef(_message.Message):
    __slots__ = ("metadata_location", "snapshot_id")
    METADATA_LOCATION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    metadata_location: str
    snapshot_id: int
    def __init__(self, metadata_location: _Optional[str] = ..., snapshot_id: _Optional[int] = ...) -> None: ...

class BeginMoveRequest(_message.Message):
    __slots__ = ("shard", "move_id", "table_id", "storage_id", "ranges", "changed_through")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    TABLE_ID_FIELD_NUMBER: _ClassVar[int]
    STORAGE_ID_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    shard: int
    move_id: bytes
    table_id: int
    storage_id: int
    ranges: _containers.RepeatedCompositeFieldContainer[RowRange]
    changed_through: int
    def __init__(self, shard: _Optional[int] = ..., move_id: _Optional[bytes] = ..., table_id: _Optional[int] = ..., storage_id: _Optional[int] = ..., ranges: _Optional[_Iterable[_Union[RowRange, _Mapping]]] = ..., changed_through: _Optional[int] = ...) -> None: ...

class MoveClaim(_message.Message):
    __slots__ = ("move_id", "shard", "timeline", "table", "ranges", "changed_through", "as_of", "begun_us", "cold")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    CHANGED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    BEGUN_US_FIELD_NUMBER: _ClassVar[int]
    COLD_FIELD_NUMBER: _ClassVar[int]
    move_id: bytes
    shard: int
    timeline: int
    table: bytes
    ranges: _containers.RepeatedCompositeFieldContainer[RowRange]
    changed_through: int
    as_of: int
    begun_us: int
    cold: SnapshotRef
    def __init__(self, move_id: _Optional[bytes] = ..., shard: _Optional[int] = ..., timeline: _Optional[int] = ..., table: _Optional[bytes] = ..., ranges: _Optional[_Iterable[_Union[RowRange, _Mapping]]] = ..., changed_through: _Optional[int] = ..., as_of: _Optional[int] = ..., begun_us: _Optional[int] = ..., cold: _Optional[_Union[SnapshotRef, _Mapping]] = ...) -> None: ...

class ReadMoveRequest(_message.Message):
    __slots__ = ("shard", "move_id")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    shard: int
    move_id: bytes
    def __init__(self, shard: _Optional[int] = ..., move_id: _Optional[bytes] = ...) -> None: ...

class MoveBatch(_message.Message):
    __slots__ = ("arrow",)
    ARROW_FIELD_NUMBER: _ClassVar[int]
    arrow: bytes
    def __init__(self, arrow: _Optional[bytes] = ...) -> None: ...

class CommitMoveRequest(_message.Message):
    __slots__ = ("shard", "move_id", "as_of", "snapshot")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    move_id: bytes
    as_of: int
    snapshot: SnapshotRef
    def __init__(self, shard: _Optional[int] = ..., move_id: _Optional[bytes] = ..., as_of: _Optional[int] = ..., snapshot: _Optional[_Union[SnapshotRef, _Mapping]] = ...) -> None: ...

class CommitMoveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AbortMoveRequest(_message.Message):
    __slots__ = ("shard", "move_id", "reason")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    shard: int
    move_id: bytes
    reason: str
    def __init__(self, shard: _Optional[int] = ..., move_id: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class AbortMoveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OpenMovesRequest(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class OpenMovesReply(_message.Message):
    __slots__ = ("moves",)
    MOVES_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[MoveClaim]
    def __init__(self, moves: _Optional[_Iterable[_Union[MoveClaim, _Mapping]]] = ...) -> None: ...
