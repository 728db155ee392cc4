"""The locked releases of requirements/: whole, with hashes, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((ROOT / "requirements").glob("*.txt"))}
PYTHONS = ("3.11", "3.12", "3.13")


def entries(text: str) -> dict[str, list[str]]:
    """Each requirement of a lock file, and its hashes."""
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line)
            found[requirement.strip()] = [text.strip() for text in hashes]
    return found


def locked(text: str, python: str) -> dict[str, str]:
    """Name → version of what a lock file installs on Linux."""
    environment = default_environment() | {
        "python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux",
        "platform_machine": "x86_64", "platform_python_implementation": "CPython",
    }  # fmt: skip
    found: dict[str, str] = {}
    for requirement in map(Requirement, entries(text)):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} twice on Python {python}"
            (specifier,) = requirement.specifier
            found[name] = specifier.version
    return found


def unmet(wanted: list[str], versions: dict[str, str]) -> list[str]:
    """Those of the requirements that the versions do not meet."""
    return [
        text
        for text, requirement in zip(wanted, map(Requirement, wanted), strict=True)
        if (name := canonicalize_name(requirement.name)) not in versions
        or not requirement.specifier.contains(versions[name], prereleases=True)
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_release_is_pinned_and_hashed_and_no_index_is_named(name: str) -> None:
    assert len(entries(FILES[name])) > 5
    for requirement, hashes in entries(FILES[name]).items():
        assert [s.operator for s in Requirement(requirement).specifier] == ["=="], requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes), requirement
    assert not re.search(
        r"https?:|^-[a-z-]|@", re.sub(r"^ +--hash=", "", FILES[name], flags=re.MULTILINE), re.MULTILINE
    )


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_is_what_the_project_asks_for(python: str) -> None:
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    assert unmet(wanted, locked(FILES["dev"], python)) == [], "run make lock"
    assert unmet(PROJECT["build-system"]["requires"], locked(FILES["build"], python)) == [], "run make lock"
    assert {"twine", "uv"} <= set(locked(FILES["release"], python))


def test_a_stale_lock_would_be_noticed() -> None:
    versions = {"torch": "2.14.1", "timm": "1.0.31"}
    assert unmet(["torch>=2.5", "timm>=1.0.12,<1.1"], versions) == []
    assert unmet(["torch>=2.15", "timm<1.0.31", "new-thing"], versions) == [
        "torch>=2.15",
        "timm<1.0.31",
        "new-thing",
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_files_agree_where_they_overlap(python: str) -> None:
    every = [locked(text, python) for text in FILES.values()]
    for name in set().union(*every):
        assert len({versions[name] for versions in every if name in versions}) == 1, name
