"""What ktb has written among the user's files is no data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ktb.data.own_results import MANIFEST, RUN, STAMP, part_results, read_manifest
from ktb.data.tools.new.survey import survey
from ktb.errors import DataError
from ktb.io import files_below
from ktb.predict.pairing import plan
from ktb.run_folder.names import CHECKPOINTS, CONFIG, RESULT
from tests.ktb.data.written import save
from tests.ktb.test_folders import fields

NAMES = ["1", "2", "3", "4"]


def predictions(folder: Path, like: Path) -> None:
    """What ktb-predict leaves: pictures of the names of its input."""
    for output in ("index", "overlay", "colour"):
        for name in NAMES:
            (folder / output).mkdir(parents=True, exist_ok=True)
            (folder / output / f"{name}.png").write_bytes((like / f"{name}.png").read_bytes())
    manifest = {STAMP: 1, "written": ["index", "colour", "overlay"]}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fields(tmp_path / "data", dict.fromkeys(("rgb", "depth", "label"), NAMES))
    return tmp_path / "data"


def test_a_run_is_known_by_its_names() -> None:
    assert RUN == (CONFIG, CHECKPOINTS, RESULT)


def test_results_are_told_from_the_users_files(root: Path) -> None:
    everything = list(files_below(root))
    predictions(root, root / "label")
    (root / "other").mkdir()
    (root / "other" / MANIFEST).write_text('{"written": ["rgb"]}', encoding="utf-8")  # of another program
    assert read_manifest(root / "other" / MANIFEST) is None
    own, results = part_results(files_below(root))
    assert sorted(own) == sorted([*everything, root / MANIFEST, root / "other" / MANIFEST])
    assert {file.parent.name for file in results} == {"index", "colour", "overlay"}
    # What somebody else put beside them stays.
    save(root / "confidence/1.png", np.ones((40, 56), np.uint8))
    assert root / "confidence/1.png" in part_results(files_below(root))[0]


def test_new_takes_no_masks_and_no_pictures_of_runs_for_sensors_or_labels(root: Path) -> None:
    clean = survey(root, workers=1)
    predictions(root, root / "label")
    for folder in ("runs/a/panels", "runs/b/panels"):
        for name in NAMES:
            save(root / folder / f"{name}.png", np.ones((40, 56, 3), np.uint8))
    (root / "runs/a/checkpoints").mkdir()
    (root / "runs/b/result.json").write_text("{}", encoding="utf-8")
    for run in ("a", "b"):
        (root / f"runs/{run}/config.yaml").write_text("dataset: {}\n", encoding="utf-8")
    found = survey(root, workers=1)
    assert [(g.name, g.settings["files"]) for g in found.modalities] == [("rgb", "rgb/*.png"), ("depth", "depth/*.png")]
    assert found.label.settings == clean.label.settings
    assert "colour and 6 more folders: left out, as ktb-predict or ktb-train wrote what is in it" in found.notes
    # Masks may be labels of another training where the user says so.
    taught = survey(root, label_files="index/*.png", workers=1)
    assert taught.label.settings["files"] == "index/*.png"
    assert {g.name for g in taught.modalities} == {"rgb", "depth"}


def test_predict_takes_no_masks_of_an_earlier_call_for_pictures(root: Path, tmp_path: Path) -> None:
    predictions(root / "rgb/first", root / "label")
    sources = {"rgb": [str(root / "rgb")], "depth": [str(root / "depth")]}
    pictures, failures = plan(sources, root / "rgb/second")
    assert ([picture.name for picture in pictures], failures) == (NAMES, [])
    for name in NAMES:
        (root / f"rgb/{name}.png").unlink()
    with pytest.raises(DataError, match=r"rgb: no picture in this folder; .*first/colour and the like was written by"):
        plan(sources, tmp_path / "out")
