"""What every Orbit Engine service shares.

Importing anything of it chooses gRPC's transport, because gRPC reads the choice when it is first imported: its event
engine costs 1.3 times the CPU a message and twice the context switches of the older poller (grpcio 1.85, asyncio).
"""

import os as _os
import sys as _sys

GRPC_CAME_FIRST = "grpc" in _sys.modules
"""Whether gRPC was imported too early for the choice to count; `orbit.chassis.rpc` reports it."""

_os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
