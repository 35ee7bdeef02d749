"""Runs a Compose file as plain processes on one machine, without containers.

Owns the way from the file to processes: reading it (`compose`, `interpolate`), deciding (`plan`, `prepare`), local
stand-ins for images (`programs`), and the processes' lives (`cluster`). `python -m deploy.runner --help` is the
command; tests use `Cluster`. It is a tool of the checkout and no part of any service.
"""

from __future__ import annotations

from deploy.runner.cluster import Cluster
from deploy.runner.compose import ComposeError
from deploy.runner.interpolate import InterpolationError
from deploy.runner.prepare import DEFAULT_FILE, Options, RunnerError
from deploy.runner.process import StillRunning
from deploy.runner.state import ClusterRun, NotRun, ProcessRecord

__all__ = [
    "DEFAULT_FILE",
    "Cluster",
    "ClusterRun",
    "ComposeError",
    "InterpolationError",
    "NotRun",
    "Options",
    "ProcessRecord",
    "RunnerError",
    "StillRunning",
]
