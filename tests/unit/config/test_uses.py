"""The mapping of settings to the parts that use them tells the truth."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from orbit.chassis.config import settings
from orbit.chassis.config.uses import USED_BY

ROOT = Path(__file__).parents[3]
CONFIG_PACKAGE = ROOT / "orbit" / "chassis" / "config"

# `Storage.object_store()` hands these on as one value.
READ_THROUGH = {
    "storage.s3.": "object_store()",
    "storage.minio.": "object_store()",
    "storage.azure.container": "iceberg.warehouse",
}


def modules_outside_the_package() -> list[str]:
    """Return the text of each module that could read a setting."""
    files = [*(ROOT / "orbit").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    return [file.read_text() for file in files if CONFIG_PACKAGE not in file.parents]


def is_read(path: str, module: str) -> bool:
    """Return whether a module reads the setting: every step of its path, be it through a local name for a section."""
    if any(path.startswith(prefix) and call in module for prefix, call in READ_THROUGH.items()):
        return True
    steps = path.split(".")
    return all(f"{above}.{below}" in module for above, below in itertools.pairwise(steps)) and (
        re.search(rf"\b{re.escape('.'.join(steps[-2:]))}\b", module) is not None
    )


def test_the_mapping_names_every_setting_and_nothing_else() -> None:
    assert list(USED_BY) == list(settings())


def test_a_setting_declared_used_is_read_somewhere() -> None:
    modules = modules_outside_the_package()
    idle = [
        path for path, user in USED_BY.items() if user is not None and not any(is_read(path, one) for one in modules)
    ]
    assert not idle, f"declared used in orbit/chassis/config/uses.py, but read nowhere: {idle}"


def test_a_setting_that_is_read_is_declared_used() -> None:
    code = "\n".join(modules_outside_the_package())
    undeclared = [
        path for path, user in USED_BY.items() if user is None and re.search(rf"\bconfig\.{re.escape(path)}\b", code)
    ]
    assert not undeclared, f"read, but not declared in orbit/chassis/config/uses.py: {undeclared}"


def test_environment_variables_are_unique() -> None:
    names = [setting.env.name for setting in settings().values()]
    assert len(set(names)) == len(names)
