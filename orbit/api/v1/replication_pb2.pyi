from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PositionRequest(_message.Message):
    __slots__ = ("shard", "source_region")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REGION_FIELD_NUMBER: _ClassVar[int]
    shard: int
    source_region: str
    def __init__(self, shard: _Optional[int] = ..., source_region: _Optional[str] = ...) -> None: ...

class PositionReply(_message.Message):
    __slots__ = ("region", "leads", "leader_address", "timeline", "lsn")
    REGION_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    LEADER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    LSN_FIELD_NUMBER: _ClassVar[int]
    region: str
    leads: bool
    leader_address: str
    timeline: int
    lsn: int
    def __init__(self, region: _Optional[str] = ..., leads: _Optional[bool] = ..., leader_address: _Optional[str] = ..., timeline: _Optional[int] = ..., lsn: _Optional[int] = ...) -> None: ...

class ApplyPart(_message.Message):
    __slots__ = ("header", "load", "transactions")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    header: BatchHeader
    load: bytes
    transactions: bytes
    def __init__(self, header: _Optional[_Union[BatchHeader, _Mapping]] = ..., load: _Optional[bytes] = ..., transactions: _Optional[bytes] = ...) -> None: ...

class BatchHeader(_message.Message):
    __slots__ = ("shard", "source_region", "timeline", "follows", "through")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_REGION_FIELD_NUMBER: _ClassVar[int]
    TIMELINE_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    THROUGH_FIELD_NUMBER: _ClassVar[int]
    shard: int
    source_region: str
    timeline: int
    follows: int
    through: int
    def __init__(self, shard: _Optional[int] = ..., source_region: _Optional[str] = ..., timeline: _Optional[int] = ..., follows: _Optional[int] = ..., through: _Optional[int] = ...) -> None: ...

class ApplyReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
