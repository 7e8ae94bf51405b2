"""The lock files: complete, exact, hashed, and at one with pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
_NEEDED = {
    "requirements.lock": [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["build-system"]["requires"],
    ],
    "requirements-dev.lock": [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["build-system"]["requires"],
        *_PROJECT["dependency-groups"]["dev"],
    ],
}


def _entries(name: str) -> list[str]:
    """One line for each pin, with its hashes."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _pins(name: str) -> list[Requirement]:
    return [Requirement(entry.partition(" --hash")[0]) for entry in _entries(name)]


def _version(pin: Requirement) -> str:
    return str(pin.specifier).removeprefix("==")


@pytest.mark.parametrize("name", _NEEDED)
def test_every_pin_is_exact_and_hashed(name: str) -> None:
    """Each line is one version with its hashes and nothing else: no index, no address, no path."""
    line = re.compile(r"[\w.-]+==[\w.+]+( ; [\w .<>=!'()]+)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")

    assert [entry[:60] for entry in _entries(name) if not line.fullmatch(entry)] == []


@pytest.mark.parametrize("name", _NEEDED)
def test_what_the_project_needs_is_locked(name: str) -> None:
    """Every requirement of pyproject.toml has a pin it accepts, or `make lock` was forgotten."""
    pins = _pins(name)

    missing = [
        needed
        for needed in map(Requirement, _NEEDED[name])
        if not any(
            canonicalize_name(pin.name) == canonicalize_name(needed.name)
            and needed.specifier.contains(_version(pin), prereleases=True)
            for pin in pins
        )
    ]

    assert missing == []


def test_tests_run_against_what_users_run() -> None:
    """The development lock has every pin of the other, at the same version."""
    both = [{(pin.name, _version(pin)) for pin in _pins(name)} for name in _NEEDED]

    assert both[0] <= both[1]
