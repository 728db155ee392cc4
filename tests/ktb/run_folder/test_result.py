"""result.json is read as what it should be, whoever has written it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktb.errors import ReportError
from ktb.run_folder.files import write_json
from ktb.run_folder.result import RunResult, parsed, read_result

WRITTEN: RunResult = {
    "status": "finished",
    "dataset": "mine",
    "split": "val",
    "protocol": {"name": "whole", "description": "whole images", "settings": {"method": "whole"}, "mean_without": []},
    "modalities": ["rgb", "depth"],
    "metrics": {"miou": 0.5, "macc": None},
    "per_class": {"wall": {"iou": 0.25, "acc": None}},
    "per_condition": {"light": {"night": {"samples": 3, "metrics": {"miou": 0.1}, "per_class": {}}}},
    "confusion_matrix": [[3]],
    "best_val_miou": None,
    "git": {"commit": "abc", "changed": True},
    "command": ["ktb-train", "run_dir=a/ü"],
}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", WRITTEN)
    assert read_result(tmp_path) == WRITTEN
    assert read_result(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"status": "exploded", "dataset": 7, "labels": "no", "seed": True, "epochs": 2.5}, {}),
        ({"metrics": {"miou": "high", "macc": 0.5, "pixel_acc": 1}}, {"metrics": {"macc": 0.5, "pixel_acc": 1.0}}),
        ({"metrics": {"miou": float("nan"), "macc": 10**400, "mf1": True}}, {"metrics": {}}),
        ({"metrics": [1], "per_class": {"a": 3, "b": {"iou": 1}}}, {"per_class": {"b": {"iou": 1.0}}}),
        ({"modalities": ["rgb", 3], "confusion_matrix": [[1, "x"]]}, {}),
        ({"checkpoint": None, "best_val_miou": None, "peak_memory_mb": None}, "the same"),
        ({"protocol": {"name": "whole", "mean_without": None}}, {"protocol": {"name": "whole"}}),
        ({"protocol": "whole", "per_condition": {"light": {"night": 3}}}, {"per_condition": {"light": {}}}),
        ({"of the future": 1, "steps": 3}, {"steps": 3}),
    ],
)
def test_values_of_another_type_are_left_out(content: dict[str, Any], expected: Any) -> None:
    assert parsed(content) == (content if expected == "the same" else expected)


def test_what_is_no_result_is_an_error(tmp_path: Path) -> None:
    for text in ("[1]", "{", json.dumps({"error": "\ud800"})):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(ReportError, match=r"result\.json: (not readable as JSON|expected a JSON object)"):
            read_result(tmp_path)
