"""Symbolic links in a circle, and links that lead back: called what they are wherever a path is followed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.cli import report as report_cli
from ktb.cli.arguments import config_dirs
from ktb.cli.run_command import run_command
from ktb.data.file_tree import Tree
from ktb.data.files import read_bytes
from ktb.data.globs import match_files
from ktb.data.tools.hha import Camera
from ktb.data.tools.hha_files import plan_hha
from ktb.data.tools.new.survey import survey
from ktb.data.tools.prepare.download import plan_download
from ktb.predict.pairing import plan
from ktb.report.runs import read_run
from ktb.report.sweep_summary import summarise
from ktb.weights.files import find_checkpoint, read_file

CAMERA = Camera(100.0, 100.0, 16.0, 16.0, None)


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """A link that leads to itself by way of another."""
    (tmp_path / "loop").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "loop")
    return tmp_path / "loop"


FOLLOWED = {
    "a data root": Tree,
    "a folder of data": lambda path: Tree(path.parent).names("loop"),
    "a file": read_bytes,
    "a run folder": find_checkpoint,
    "a checkpoint": read_file,
    "a run to report on": read_run,
    "a sweep to report on": summarise,
    "own data": survey,
    "a download": lambda path: plan_download("nyu", path, path.parent / "out"),
    "pictures": lambda path: plan({"rgb": [str(path)]}, path.parent / "out"),
    "configurations": config_dirs,
}


@pytest.mark.parametrize("what", FOLLOWED)
def test_a_circle_of_links_is_called_one(
    what: str, loop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        FOLLOWED[what](loop)
        return 0

    assert run_command("ktb-x", work) == 2
    said = capsys.readouterr().err
    assert said.startswith("ktb-x: error: ")
    assert "symlink loop" in said
    assert str(loop) in said
    assert said.count("\n") == 1


def test_a_page_that_would_be_written_over_a_circle(loop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_cli.main([str(loop), "--format", "csv"]) == 2
    assert "symlink loop" in capsys.readouterr().err


def test_a_circle_beside_the_files_of_a_data_set_does_not_matter(loop: Path) -> None:
    (loop.parent / "a.png").touch()
    assert Tree(loop.parent).names("") == {"a.png": False, "loop": False, "other": False}


@pytest.fixture
def leading_back(tmp_path: Path) -> Path:
    """Two pictures, in a folder and below it, and a link there that leads back to the folder."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name in ("d/a.png", "d/sub/b.png"):
        Image.fromarray(np.full((32, 32), 2000, np.uint16)).save(tmp_path / name)
    (tmp_path / "d" / "sub" / "up").symlink_to(tmp_path / "d")
    return tmp_path / "d"


def test_a_link_that_leads_back_gives_no_file_twice(leading_back: Path) -> None:
    assert match_files(Tree(leading_back), "**/*.png") == {"a": "a.png", "sub/b": "sub/b.png"}
    jobs = plan_hha(f"{leading_back}/**/*.png", leading_back.parent / "out", unit_m=1e-3, camera=CAMERA)
    assert [job.source for job in jobs] == [leading_back / "a.png", leading_back / "sub" / "b.png"]
    pictures, failed = plan({"depth": [f"{leading_back}/**/*.png"]}, leading_back.parent / "out")
    assert ([job.name for job in pictures], failed) == (["a", "sub/b"], [])
