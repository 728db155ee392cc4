"""The notebooks of docs/ run from the first cell to the last, and show what came of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image
from scripts.notebooks import execute

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))


def printed(node: Any) -> str:
    return "".join(out.get("text", "") for cell in node.cells for out in cell.get("outputs", ()))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.name)
def test_outputs_are_stored_and_name_no_machine(file: Path) -> None:
    node = nbformat.read(file, as_version=4)
    nbformat.validate(node)
    cells = [cell for cell in node.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run make notebooks"
    outputs = [out for cell in cells for out in cell.outputs]
    assert {out.output_type for out in outputs} <= {"stream", "display_data", "execute_result"}
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 2
    assert not re.search(r"/tmp/|/work|/root|Traceback|Warning|\x1b", printed(node))
    assert file.stat().st_size < 1_000_000


@pytest.mark.slow
def test_own_sensors_from_pictures_to_masks(tmp_path: Path) -> None:
    node = execute(DOCS / "own_sensors.ipynb", tmp_path)
    work = tmp_path / "own_sensors"
    run = json.loads((work / "runs" / "clearing" / "result.json").read_text())
    assert (run["split"], run["steps"], run["modalities"]) == ("val", 48, ["rgb", "thermal"])
    assert run["metrics"]["miou"] > 0.55
    assert "40 samples, 0 failures, 0 findings" in printed(node)
    config = yaml.safe_load((work / "conf" / "dataset" / "clearing.yaml").read_text())
    assert (config["classes"], config["modalities"]["thermal"]["hole_value"]) == (["ground", "animal", "sign"], 0)
    # Four new pictures, which the model mostly gets right.
    masks = {number: np.array(Image.open(work / "masks" / "index" / f"{number}.png")) for number in range(40, 44)}
    labels = {number: np.array(Image.open(work / "new" / "label" / f"{number}.png")) for number in masks}
    right = np.mean([(masks[number] == labels[number]).mean() for number in masks])
    assert right > 0.93
    # Predictor's masks of arrays are those of ktb-predict, and the figures below the last picture are theirs.
    scores = dict(re.findall(r"(\w+) +IoU (\d\.\d\d)", printed(node)))
    assert set(scores) == {"ground", "animal", "sign"}
    shown = masks[41] == 1
    truth = labels[41] == 1
    assert float(scores["animal"]) == pytest.approx((shown & truth).sum() / (shown | truth).sum(), abs=0.006)


@pytest.mark.slow
def test_predict_in_python_shows_what_it_says(tmp_path: Path) -> None:
    text = printed(execute(DOCS / "predict_in_python.ipynb", tmp_path))
    assert "(96, 128) uint8 ['floor', 'wall'" in text
    assert re.search(r"frame \d+: crate, \d+% of the picture", text)
    assert "\nTrue\n" in text  # several frames, columns and threads have the same masks
    for mistake in ("did you mean 'depth'?", "expected uint8", "must have one size", "times less than in training"):
        assert mistake in text
    share = re.search(r"([\d.]+)% of the pixels are as Predictor has them", text)
    assert share is not None
    assert float(share[1]) >= 99.9
    run = json.loads((tmp_path / "predicting" / "runs" / "mine" / "result.json").read_text())
    assert run["metrics"]["miou"] > 0.2
