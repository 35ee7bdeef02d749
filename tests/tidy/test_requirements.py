"""The lock files are complete, agree with each other and name no index."""

from __future__ import annotations

import importlib.metadata
import re
import sys

from tests.tidy import sources

FIRST_PARTY = {"orbit", "services", "deploy", "tests", "proto"}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(file: str) -> set[str]:
    """Return the distributions that an .in file names itself."""
    lines = (line.split("#")[0].strip() for line in sources.text(file).splitlines())
    return {normalized(re.split(r"[\[=<>~! ;]", line)[0]) for line in lines if line and not line.startswith("-")}


def pins(file: str) -> dict[str, str]:
    return {
        normalized(match[1]): match[2]
        for match in re.finditer(r"^([A-Za-z0-9._-]+)==(\S+)", sources.text(file), re.MULTILINE)
    }


def test_both_locks_pin_the_same_versions() -> None:
    base, test = pins("requirements/base.txt"), pins("requirements/test.txt")
    assert len(base) > 30
    assert {name: test.get(name) for name in base} == base, "run `make lock`"


def test_everything_named_is_locked() -> None:
    for stage in ("base", "test"):
        missing = named(f"requirements/{stage}.in") - pins(f"requirements/{stage}.txt").keys()
        assert not missing, f"run `make lock`: {missing}"


def test_every_pin_has_hashes_and_no_address() -> None:
    for stage in ("base", "test"):
        locked = sources.text(f"requirements/{stage}.txt")
        blocks = re.split(r"^(?=[A-Za-z0-9])", locked, flags=re.MULTILINE)[1:]
        assert len(blocks) == len(pins(f"requirements/{stage}.txt"))
        assert all("--hash=sha256:" in block for block in blocks)
        assert "://" not in locked


def test_what_runs_is_what_is_pinned() -> None:
    different = {}
    for name, version in pins("requirements/test.txt").items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a pin for another platform or Python
        if installed != version:
            different[name] = (installed, version)
    assert not different, f"installed, pinned: {different}"


def test_every_import_is_named_as_a_requirement() -> None:
    distributions = importlib.metadata.packages_distributions()
    undeclared = set()
    for folders, stage in ((("orbit", "services"), "base"), (("deploy", "tests", "proto"), "test")):
        known = named("requirements/base.in") | (named("requirements/test.in") if stage == "test" else set())
        for name in sources.modules(*folders):
            for module in sources.imported(name):
                package = module.split(".")[0]
                if package in sys.stdlib_module_names or package in FIRST_PARTY:
                    continue
                # Namespace packages (google, opentelemetry) belong to several distributions.
                if not known & {normalized(one) for one in distributions.get(package, [package])}:
                    undeclared.add((package, name))
    assert not undeclared, f"name them in requirements/*.in and run `make lock`: {sorted(undeclared)}"
