"""What a job writes down about itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ktb
from ktb.jobs.provenance import PACKAGE, git_state


def git(*arguments: str, at: Path) -> str:
    return subprocess.run(
        ["git", "-C", at, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "src" / "ktb" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    assert git_state(package.parent) is None
    git("init", "-q", at=tmp_path)
    git("add", ".", at=tmp_path)
    git("commit", "-qm", "first", at=tmp_path)
    assert git_state(package.parent) == {"commit": git("rev-parse", "HEAD", at=tmp_path), "changed": False}
    (tmp_path / "new.py").touch()
    assert git_state(package.parent) == {"commit": git("rev-parse", "HEAD", at=tmp_path), "changed": True}


def test_a_repository_that_only_holds_the_installation_has_no_commit_of_ours(tmp_path: Path) -> None:
    git("init", "-q", at=tmp_path)
    package = tmp_path / "venv" / "ktb" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()
    assert git_state(package.parent) is None


def test_it_is_asked_of_the_package() -> None:
    assert ktb.__file__ == str(PACKAGE / "__init__.py")
