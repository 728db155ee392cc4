"""A folder is what a person sees: hidden files never count, and Unicode forms of one name are one name."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from ktb.config.checks import check
from ktb.config.compose import groups
from ktb.data.file_tree import Tree
from ktb.data.files import read_bytes
from ktb.data.lists import read_list
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.pst900 import PST900DataModule
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.hha import NYU_CAMERA
from ktb.data.tools.hha_files import plan_hha
from ktb.data.tools.new.survey import survey
from ktb.errors import CheckpointError, DataError
from ktb.io import entries, existing, expanded, files_below, is_empty, is_hidden
from ktb.predict.pairing import plan as plan_predict
from ktb.predict.pairing import plan_csv
from ktb.weights.files import find_checkpoint
from tests.ktb.config.composed import composed
from tests.ktb.data.written import save

JUNK = (".DS_Store", "._1.png", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints/1-checkpoint.png", "__MACOSX/._1.png",
        "__MACOSX/1.png", ".git/1.png", "@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "@eaDir/2.png")  # fmt: skip
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "prüfung") for form in ("NFC", "NFD"))


def litter(*folders: Path) -> None:
    """What systems leave behind, in these folders."""
    for folder in folders:
        for name in JUNK:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\0\5\x16\7not a picture")


def fields(root: Path, names: dict[str, list[str]], suffix: str = ".png") -> None:
    """rgb, depth and label, each with the names given for it."""
    for kind, stems in names.items():
        for i, stem in enumerate(stems):
            rng = np.random.default_rng(i)
            pictures = {
                "rgb": rng.integers(0, 256, (40, 56, 3), np.uint8),
                "depth": rng.integers(500, 9000, (40, 56)).astype(np.uint16),
                "label": np.repeat(np.arange(2, dtype=np.uint8), 28)[None].repeat(40, axis=0),
            }
            save(root / kind / f"{stem}{suffix}", pictures[kind])


def module(root: Path, **changes: Any) -> FolderDataModule:
    settings: dict[str, Any] = {
        "modalities": {"rgb": {"files": "rgb/**/*.png"}, "depth": {"files": "depth/**/*.png", "dtype": "uint16"}},
        "label": {"files": "label/**/*.png"},
        "classes": ["a", "b"],
        "splits": {"train": 0.5, "val": 0.5},
        "streams": ["rgb", "depth"],
        "num_workers": 0,
        "batch_size": 1,
    }
    return FolderDataModule(root, **(settings | changes))


@pytest.mark.parametrize(
    "name",
    [".DS_Store", "._a.png", ".git", "Thumbs.db", "THUMBS.DB", "Desktop.ini", "__MACOSX", "lost+found", "#recycle",
     "System Volume Information"],
)  # fmt: skip
def test_what_is_hidden(name: str) -> None:
    assert is_hidden(name)
    assert not is_hidden("a" + name)


def test_listings_leave_hidden_files_out(tmp_path: Path) -> None:
    (tmp_path / "data/b").mkdir(parents=True)
    (tmp_path / "data/b/2.png").touch()
    (tmp_path / "data/1.png").touch()
    (tmp_path / "data/b/again").symlink_to(tmp_path / "data")
    litter(tmp_path / "data", tmp_path / "data/b", tmp_path / "empty")
    assert [entry.name for entry in entries(tmp_path / "data")] == ["1.png", "b"]
    assert [p.relative_to(tmp_path / "data").as_posix() for p in files_below(tmp_path / "data")] == ["1.png", "b/2.png"]
    assert is_empty(tmp_path / "empty")
    assert not is_empty(tmp_path / "data")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields(tmp_path / "data", {"rgb": ["a/1", "b/2"], "depth": ["a/1", "b/2"]})
    listed = os.scandir

    def closed(folder: Path) -> Any:
        if Path(folder).name == "b":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", closed)
    for look in (
        lambda: list(files_below(tmp_path / "data")),
        lambda: plan_predict({"rgb": [str(tmp_path / "data/rgb")]}, tmp_path / "out"),
        lambda: survey(tmp_path / "data", workers=1),
        lambda: plan_hha(str(tmp_path / "data/depth"), tmp_path / "hha", unit_m=0.001, camera=NYU_CAMERA),
    ):
        with pytest.raises(PermissionError, match=r"Permission denied: '.*/b'"):
            look()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_pictures_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    fields(tmp_path, {"rgb": ["1", "2", "3", "4"], "depth": ["1", "2", "3"], "label": ["1", "2", "3", "4"]})
    os.mkfifo(tmp_path / "depth/4.png")
    with pytest.raises(DataError, match=r"depth/4\.png: is a pipe; expected a file"):
        read_bytes(tmp_path / "depth/4.png")
    with pytest.raises(DataError, match=r"depth/4\.png: is a pipe; expected a file"):
        survey(tmp_path, workers=1)
    (tmp_path / "label/4.png").unlink()
    os.mkfifo(tmp_path / "label/4.png")  # no palette is looked for in it either
    with pytest.raises(DataError, match="4\\.png: is a pipe"):
        [split[i] for split in (module(tmp_path).dataset("train"), module(tmp_path).dataset("val")) for i in (0, 1)]


def test_hidden_files_are_no_samples_anywhere(tmp_path: Path) -> None:
    root = tmp_path / "fields"
    fields(root, {kind: ["1", "2", "3", "4"] for kind in ("rgb", "depth", "label")})
    litter(root, root / "rgb", root / "depth", root / "label")
    data = module(root)
    planned = open_splits(data)
    assert (planned.counts, planned.findings) == ({"train": 2, "val": 2}, [])
    found = survey(root, workers=1)
    assert ({g.name: g.settings["files"] for g in found.modalities}, found.notes[1:]) == (
        {"rgb": "rgb/*.png", "depth": "depth/*.png"},
        [],
    )
    jobs, failures = plan_predict({"rgb": [str(root / "rgb")], "depth": [str(root / "depth")]}, tmp_path / "out")
    assert ([job.name for job in jobs], failures) == (["1", "2", "3", "4"], [])
    jobs, _ = plan_predict({"rgb": [str(root / "rgb/**/*.png")]}, tmp_path / "out")
    assert len(jobs) == 4
    assert len(plan_hha(str(root / "depth"), tmp_path / "hha", unit_m=0.001, camera=NYU_CAMERA)) == 4


def test_hidden_files_in_a_published_layout_and_in_new_folders(tmp_path: Path) -> None:
    litter(tmp_path / "pst900")
    root = make_fixture("pst900", tmp_path / "pst900", counts={"train": 3, "test": 1})
    litter(root / "train", root / "train/rgb", root / "train/labels")
    data = PST900DataModule(root, streams=["rgb", "thermal"], num_workers=0)
    assert len(data.open_split("train")) == 3


def test_a_hidden_file_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/mine.yaml").write_text("name: mine\n")
    (tmp_path / "dataset/._mine.yaml").write_bytes(b"\0\5\x16\7")
    members = groups("train", [tmp_path])["dataset"]
    assert "mine" in members
    assert "._mine" not in members


# --- Unicode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listed", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_forms_of_one_name_are_one_name(tmp_path: Path, listed: str, stored: str) -> None:
    fields(tmp_path, {
        "rgb": [f"{stored}/{i}{stored}" for i in range(4)],
        "depth": [f"{listed}/{i}{listed}" for i in range(4)],
        "label": [f"{listed}/{i}{stored}" for i in range(4)],
    })  # fmt: skip
    assert [len(module(tmp_path).open_split(split)) for split in ("train", "val")] == [2, 2]
    for split, first in (("train", 0), ("val", 2)):
        lines = [f"{listed}/{first}{listed}", f"rgb/{listed}/{first + 1}{stored}.png"]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    data = module(tmp_path, splits={"train": "train.txt", "val": "val.txt"})
    assert [data.dataset("train")[i]["id"] for i in range(2)] == [f"{COMPOSED}/{i}{COMPOSED}" for i in range(2)]
    assert module(tmp_path, modalities={"rgb": {"files": f"rgb/{listed}/?{listed}.png"}}, streams=["rgb"],
                  label={"files": f"label/{stored}/?{listed}.png"}).open_split("train").entries  # fmt: skip
    sources = {"rgb": [str(tmp_path / "rgb" / listed)], "depth": [str(tmp_path / "depth" / listed)]}
    jobs, failures = plan_predict(sources, tmp_path / "out")
    assert ([job.name for job in jobs], failures) == ([f"{i}{COMPOSED}" for i in range(4)], [])
    table = tmp_path / "table.csv"
    table.write_text(f"rgb,depth\nrgb/{listed}/0{listed}.png,depth/{stored}/0{stored}.png\n", encoding="utf-8")
    job = plan_csv(table, ["rgb", "depth"])[0][0]
    assert all(path.is_file() for paths in job.files.values() for path in paths)
    found = survey(tmp_path, workers=1)
    assert {g.name for g in found.modalities} == {"rgb", "depth"}
    assert read_bytes(tmp_path / "rgb" / listed / f"1{listed}.png")
    assert existing(tmp_path / "rgb" / listed / "none.png") == tmp_path / "rgb" / listed / "none.png"
    tree = Tree(tmp_path)
    assert f"rgb/{listed}/1{listed}.png" in tree
    assert f"rgb/{listed}/9{listed}.png" not in tree


def test_two_names_that_differ_in_form_only_are_named(tmp_path: Path) -> None:
    fields(tmp_path, {"rgb": [COMPOSED, DECOMPOSED], "depth": [COMPOSED], "label": [COMPOSED]})
    if len(list((tmp_path / "rgb").iterdir())) < 2:
        pytest.skip("this file system takes both forms for one name")
    with pytest.raises(DataError, match=r"rgb: holds two names .* differ in their Unicode form only"):
        module(tmp_path).open_split("train")
    with pytest.raises(DataError, match="would be the same picture"):
        plan_predict({"rgb": [str(tmp_path / "rgb")]}, tmp_path / "out")
    (tmp_path / "list.txt").write_text(f"{COMPOSED}\n{DECOMPOSED}\n", encoding="utf-8")
    with pytest.raises(DataError, match="stands on lines 1 and 2"):
        read_list(tmp_path / "list.txt", tmp_path)


def test_class_names_in_either_form(tmp_path: Path) -> None:
    fields(tmp_path, {kind: ["1", "2"] for kind in ("rgb", "depth", "label")})
    data = module(tmp_path, classes=[DECOMPOSED, "b"],
                  label={"files": "label/*.png", "map": {0: COMPOSED, 1: "b"}})  # fmt: skip
    assert data.spec.classes == (COMPOSED, "b")
    assert set(np.unique(data.dataset("train")[0]["label"])) == {0, 1}


@pytest.mark.parametrize(("typed", "stored"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
@pytest.mark.parametrize("key", ["dataset.root", "run_dir", "ckpt_path", "init_from", "backbone.weights"])
def test_paths_of_settings_in_either_form(tmp_path: Path, typed: str, stored: str, key: str) -> None:
    (tmp_path / stored).mkdir()
    cfg = composed(
        "run_dir=x", "dataset=nyu", "dataset.root=y", f"{key}='{tmp_path / typed}'", "backbone.drop_path=0.1"
    )
    check(cfg)
    assert OmegaConf.select(cfg, key) == str(tmp_path / stored)


def test_paths_of_options_in_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / DECOMPOSED / "x").mkdir(parents=True)
    assert expanded(f"{COMPOSED}/x") == Path(DECOMPOSED, "x")
    assert expanded(tmp_path / COMPOSED / "new") == tmp_path / COMPOSED / "new"  # of which the whole is not there
    with pytest.raises(CheckpointError, match=f"{DECOMPOSED}: neither|{DECOMPOSED}: "):
        find_checkpoint(tmp_path / COMPOSED)
