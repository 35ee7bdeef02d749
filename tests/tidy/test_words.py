"""What no committed file may name: package registries, and paths of somebody's machine."""

from __future__ import annotations

import re

from tests.tidy import sources

# Put together from pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a package registry's host": "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "python" + "hosted.org",
            "npm" + "js.org",
            "npm" + "js.com",
            "deb." + "debian.org",
        )
    ),
    "a path of one machine": r"(?<![\w.}])/"
    r"(?:work|root|opt/pypi|opt/wheels|home/\w+/|Users/\w+/)(?=[/\s\"'`:]|$)",
    "an index address": r"--(?:extra-)?index" + "-url|--find" + "-links",
}
# `--no-emit-index-url` keeps index addresses out of the lock files.
ALLOWED = {("Makefile", "an index address")}


def test_no_file_names_a_registry_or_a_machine() -> None:
    found = [
        f"{name}:{number}: names {what}: {match.group()}"
        for name in sources.files()
        for what, pattern in FORBIDDEN.items()
        if (name, what) not in ALLOWED
        for number, line in enumerate(sources.text(name).splitlines(), 1)
        if (match := re.search(pattern, line))
    ]
    assert not found, "\n".join(found)


def test_the_patterns_find_what_they_are_for() -> None:
    samples = {
        "a package registry's host": "see https://" + "pypi" + ".org/simple",
        "a path of one machine": 'open("' + "/wo" + 'rk/main/x")',
        "an index address": "pip install --index" + "-url x",
    }
    for what, sample in samples.items():
        assert re.search(FORBIDDEN[what], sample), what
    assert not re.search(FORBIDDEN["a path of one machine"], "src/work/x and https://example.com/work and $ROOT/rootfs")
