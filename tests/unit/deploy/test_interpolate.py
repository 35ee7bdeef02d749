"""Variables mean here what they mean to Compose."""

from __future__ import annotations

import pytest

from deploy.runner.interpolate import InterpolationError, interpolate, read_env_file

VARIABLES = {"SET": "value", "EMPTY": "", "OTHER": "other"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET", "value"),
        ("a-${SET}-b", "a-value-b"),
        ("${UNSET}", ""),
        ("${UNSET:-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${SET:-x}", "value"),
        ("${UNSET-}", ""),
        ("${SET:+there}", "there"),
        ("${EMPTY:+there}", ""),
        ("${EMPTY+there}", "there"),
        ("${UNSET:-${OTHER}}", "other"),
        ("${UNSET:-${ALSO:-deep}}!", "deep!"),
        ("${UNSET:-http://minio:9000}", "http://minio:9000"),
        ("cost: 5$$", "cost: 5$"),
        ("$${SET}", "${SET}"),
        ("${SET:?needed}", "value"),
        ("${EMPTY?needed}", ""),
    ],
)
def test_reference(text: str, expected: str) -> None:
    assert interpolate(text, VARIABLES) == expected


@pytest.mark.parametrize("text", ["${UNSET:?the password}", "${EMPTY:?the password}", "${UNSET?the password}"])
def test_required_variable_is_named_with_its_message(text: str) -> None:
    with pytest.raises(InterpolationError, match=r"(UNSET|EMPTY) is not set: the password"):
        interpolate(text, VARIABLES)


@pytest.mark.parametrize("text", ["${SET", "100$ more", "${}", "${SET!x}", "${1}"])
def test_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(InterpolationError):
        interpolate(text, VARIABLES)


def test_env_file() -> None:
    text = """
# a comment
PLAIN=value
export EXPORTED = spaced
EMPTY=
COMMENTED=value # not part of it
HASH=a#b
SINGLE='${PLAIN} $5'
DOUBLE="two
NOT_CLOSED
"""
    with pytest.raises(InterpolationError, match="line 9"):
        read_env_file(text, {})
    good = text.split("DOUBLE", maxsplit=1)[0] + 'DOUBLE="$PLAIN\\n\\"q\\""\nLATER=${PLAIN}/x\nSHELL_WINS=${SET}\n'
    assert read_env_file(good, {"SET": "shell"}) == {
        "PLAIN": "value",
        "EXPORTED": "spaced",
        "EMPTY": "",
        "COMMENTED": "value",
        "HASH": "a#b",
        "SINGLE": "${PLAIN} $5",
        "DOUBLE": 'value\n"q"',
        "LATER": "value/x",
        "SHELL_WINS": "shell",
    }


def test_env_file_names_the_line_that_is_no_assignment() -> None:
    with pytest.raises(InterpolationError, match="line 2 is not NAME=value"):
        read_env_file("A=1\nwhat is this\n", {})
