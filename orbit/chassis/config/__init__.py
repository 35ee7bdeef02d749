"""Configuration: one frozen `Config`, built once in `__main__` and handed down.

Owns every name that an operator can set: the TOML keys (`sections`), their environment variables, the reading of
both (`loading`) and the list of who uses what (`uses`). It is the only reader of the environment. It owns no
meaning: what a value does is told by the part that takes it.

    loaded = load()                    # the process's environment over the file that ORBIT_CONFIG names
    loaded.config.transaction.timeout_ms
    loaded.sources["transaction.timeout_ms"]     # "default", "file", "derived" or "environment"
"""

from __future__ import annotations

from orbit.chassis.config.loading import ConfigError, Loaded, Setting, environment, load, settings, value_at
from orbit.chassis.config.sections import ROLES, Config, ObjectStore

__all__ = [
    "ROLES",
    "Config",
    "ConfigError",
    "Loaded",
    "ObjectStore",
    "Setting",
    "environment",
    "load",
    "settings",
    "value_at",
]
