"""How `orbit config` shows the effective configuration.

Owns the two renderings. Secrets are masked in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from orbit.chassis.config import Loaded, Setting, settings, value_at
from orbit.chassis.config.values import masked


def as_text(loaded: Loaded) -> str:
    """Return one line for each setting (key, value, origin), those that nothing uses under a heading of their own."""
    declared = settings()
    used = [setting for setting in declared.values() if setting.used_by is not None]
    unused = [setting for setting in declared.values() if setting.used_by is None]
    lines = [f"# file: {loaded.file or 'none'}"]
    lines += _lines(loaded, used)
    if unused:
        lines += ["", "# Accepted, but nothing uses these yet: setting them changes nothing."]
        lines += _lines(loaded, unused)
    return "\n".join(lines)


def as_json(loaded: Loaded) -> str:
    """Return {path: {value, source, environment, used_by}}; used_by is null where nothing uses the setting yet."""
    return json.dumps(
        {
            path: {
                "value": masked(value_at(loaded.config, path)),
                "source": loaded.sources[path],
                "environment": setting.env.name,
                "used_by": setting.used_by,
            }
            for path, setting in settings().items()
        },
        indent=2,
    )


def _lines(loaded: Loaded, some: Iterable[Setting]) -> list[str]:
    shown = [(setting, f"{setting.path} = {_toml(masked(value_at(loaded.config, setting.path)))}") for setting in some]
    width = min(72, max((len(text) for _, text in shown), default=0))
    return [f"{text:<{width}}  # {_origin(loaded, setting)}" for setting, text in shown]


def _origin(loaded: Loaded, setting: Setting) -> str:
    source = loaded.sources[setting.path]
    if source == "environment":
        return f"environment {setting.env.name}"
    return f"file {loaded.file}" if source == "file" else f"{source}; {setting.env.name}"


def _toml(value: Any) -> str:
    """Return the value as TOML writes it; strings of JSON are strings of TOML."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
