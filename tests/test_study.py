"""`scripts/study.py`: which jobs it runs, and what its table is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.ktb.commands import run_script


def test_a_run_that_failed_is_run_again_and_no_part_of_the_table(tmp_path: Path) -> None:
    """One that met NaN has left a result.json without scores."""
    scores = {"rgb_disparity": 0.5, "disparity_only": 0.25}
    content: dict[str, dict[str, Any]] = {
        name: {"status": "finished", "per_class": {"pothole": {"iou": iou}}, "wall_time_s": 90.0}
        for name, iou in scores.items()
    }
    content["rgb_only"] = {"status": "failed", "cause": "not finite", "error": "step 2: loss is nan", "wall_time_s": 6}
    for name, result in content.items():
        folder = tmp_path / "out" / f"{name}_seed1"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
    arguments = ["potholes", "dataset.batch_size=-1", "--seeds", 1, "--out", tmp_path / "out"]
    done = run_script("study", *arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "failed: RGB only, seed 1" in done.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert table[1:] == [
        "| RGB + disparity | 50.0 | +0.0 | 1 | 1.5 |",
        "| RGB only | - | - | 0 | - |",
        "| disparity only | 25.0 | -25.0 | 1 | 1.5 |",
    ]
    logs = list((tmp_path / "out").rglob("log.txt"))  # of the jobs that were started
    assert [log.parent.name for log in logs] == ["rgb_only_seed1"]
    assert "dataset.batch_size" in logs[0].read_text()
