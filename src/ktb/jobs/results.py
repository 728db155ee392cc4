"""What an evaluation came to: its scores as result.json holds them, and the files of a run that are made of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.module import RGBXDataModule
from ktb.data.spec import DatasetSpec
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.saving import Saving
from ktb.engine.scoring import ScoringModule
from ktb.errors import NotFiniteError
from ktb.io import atomic_file
from ktb.metrics.evaluation import Tally
from ktb.metrics.scores import IMAGE_SCORES, PER_CLASS, finite
from ktb.report import result_tables as tables
from ktb.report.page import page
from ktb.report.runs import read_run
from ktb.run_folder.files import write_json, write_text
from ktb.run_folder.names import PAGE, PER_IMAGE, PREDICTIONS, RESULT, ROBUSTNESS, ROBUSTNESS_PLOT
from ktb.run_folder.result import RunResult, Scores


def scored(module: ScoringModule, data: RGBXDataModule) -> RunResult:
    """Test scores in [0, 1], per class and per condition too; null where there was nothing to score, and for a split
    without labels the folder of the predictions."""
    evaluation, spec = module.evaluation, data.spec
    scores = _scores(evaluation.total, spec)
    own = {name: finite(value) for name, value in module.own_scores.items()}
    total: RunResult = {"metrics": scores["metrics"] | own, "per_class": scores["per_class"]}
    if not data.labelled(spec.report_split):
        total |= {"metrics": dict.fromkeys(total["metrics"]), "labels": False, "predictions": PREDICTIONS}
    return {
        **total,
        "confusion_matrix": evaluation.total.matrix.tolist(),
        "per_condition": {
            condition: {
                value: {"samples": tally.samples, **_scores(tally, spec)} for value, tally in sorted(values.items())
            }
            for condition, values in evaluation.conditions.items()
        },
    }


def _scores(tally: Tally, spec: DatasetSpec) -> Scores:
    result = tally.scores(spec.ids_without)
    return {
        "metrics": {k: finite(v) for k, v in result.items() if k not in PER_CLASS},
        "per_class": {name: {k: finite(result[k][i]) for k in PER_CLASS} for i, name in enumerate(spec.classes)},
    }


def write_result(run_dir: Path, result: RunResult) -> None:
    """Write result.json and, of all that the folder holds now, the page."""
    write_json(run_dir / RESULT, result)
    write_text(run_dir / PAGE, page([read_run(run_dir)]))


def write_failure(run_dir: Path, error: NotFiniteError, saving: Saving, facts: RunResult) -> None:
    """A result.json without scores, so that nobody takes those of an earlier training for this one's, and its page."""
    if ranks.is_first():
        good = os.path.relpath(saving.newest, run_dir) if saving.newest else None
        failure: RunResult = {"status": "failed", "cause": "not finite", "error": str(error), "checkpoint": good}
        write_result(run_dir, {**failure, **facts})


def write_robustness(run_dir: Path, result: RunResult, found: dict[str, Any]) -> dict[str, Any]:
    """Write robustness.json, and the plot of it."""
    about = ("dataset", "split", "protocol", "checkpoint", "modalities", "seed")
    content = {key: result[key] for key in about} | found  # type: ignore[literal-required]
    write_json(run_dir / ROBUSTNESS, content)
    if found["full"]["metrics"]["miou"] is not None:  # a split without any label has no scores
        with atomic_file(run_dir / ROBUSTNESS_PLOT) as partial:
            tables.robustness_figure(content).savefig(partial, format="png", dpi=130)
    return content


def write_per_image(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write per_image.csv: per image its id, conditions, labelled pixels and scores, empty where there is none."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    scores_last = [c for c in columns if c not in IMAGE_SCORES] + list(IMAGE_SCORES)
    text = io.StringIO()
    writer = csv.DictWriter(text, scores_last, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()})
    write_text(run_dir / PER_IMAGE, text.getvalue())
