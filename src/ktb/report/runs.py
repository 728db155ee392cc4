"""Run folders as plain values. Everything in them may come from elsewhere, so nothing is taken on trust."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ktb.config.moved import with_current_settings
from ktb.errors import ReportError, one_line
from ktb.io import absent, expanded, is_hidden
from ktb.report.table_formats import Table, Value
from ktb.run_folder.files import read_json
from ktb.run_folder.names import CONFIG, EVALUATIONS, FUSION_INDEX, METRICS, PANELS_INDEX, RESULT, ROBUSTNESS
from ktb.run_folder.result import RunResult, read_result

SCORES = {
    "miou": "mIoU", "macc": "mAcc", "pixel_acc": "pixel accuracy", "mf1": "F1", "fwiou": "FWIoU",
    "mboundary_iou": "boundary IoU",
}  # fmt: skip
"""Scores of result.json and what they are called in tables."""
MEANS = ("miou", "macc", "mf1", "mboundary_iou")
"""Those that are means over classes, of which `dataset.mean_without` leaves some out."""

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One run or evaluation folder; what it does not hold (yet) is empty."""

    folder: Path
    name: str
    config: dict[str, Any]
    result: RunResult = field(default_factory=RunResult)
    curves: dict[str, Curve] = field(default_factory=dict)
    """Logged name → (step, value)."""
    panels: dict[str, Any] = field(default_factory=dict)
    fusion: dict[str, Any] = field(default_factory=dict)
    robustness: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, float | None]:
        """Those of `SCORES` that were computed, in [0, 1]."""
        metrics = mapping(self.result.get("metrics"))
        return {key: number(metrics[key]) for key in SCORES if key in metrics}

    @property
    def own_scores(self) -> str:
        """The values of metrics of the user's own, in words."""
        return own_scores(self.result)

    @property
    def mean_without(self) -> tuple[str, ...]:
        """Classes that the means leave out."""
        return left_out(self.result)

    def title(self, key: str) -> str:
        """What one of `SCORES` is called in a table of this run, with the classes that a mean leaves out."""
        return SCORES[key] + (without(self.mean_without) if key in MEANS else "")

    @property
    def dataset(self) -> str:
        """Name of the data set; the run's own where no data set is known."""
        return str(self.result.get("dataset") or self.setting("dataset", "name") or self.name)

    @property
    def palette(self) -> dict[str, str]:
        """Class → CSS colour, as the pictures are painted; empty without pictures."""
        classes, palette = self.panels.get("classes"), self.panels.get("palette")
        if not isinstance(classes, list) or not isinstance(palette, list):
            return {}
        return {
            str(name): f"rgb({rgb[0]} {rgb[1]} {rgb[2]})"
            for name, rgb in zip(classes, palette, strict=False)
            if isinstance(rgb, list) and len(rgb) == 3 and all(isinstance(c, int) for c in rgb)
        }

    @property
    def failure(self) -> str | None:
        """Why the training ended without scores, if it said so."""
        return str(self.result.get("error") or "no reason given") if self.result.get("status") == "failed" else None

    @property
    def per_class(self) -> dict[str, dict[str, Any]]:
        """Class → its scores in [0, 1], by their short names ("iou", "acc", ...)."""
        return {name: mapping(row) for name, row in mapping(self.result.get("per_class")).items()}

    @property
    def confusion(self) -> list[list[int]]:
        """Pixels by true class (row) and predicted class; empty unless it fits the classes."""
        matrix, count = self.result.get("confusion_matrix"), len(self.per_class)
        if not isinstance(matrix, list) or len(matrix) != count:
            return []
        cells = [v for row in matrix if isinstance(row, list) and len(row) == count for v in row]
        fits = len(cells) == count**2 and all(isinstance(v, int) and v >= 0 for v in cells)
        return matrix if fits else []

    @property
    def class_shares(self) -> dict[str, float]:
        """Class → its share of the labelled pixels; empty without a confusion matrix."""
        matrix = self.confusion
        total = sum(map(sum, matrix))
        return {name: sum(row) / total for name, row in zip(self.per_class, matrix, strict=True)} if total else {}

    @property
    def published(self) -> tuple[float, str] | None:
        """mIoU in [0, 1] and split of the row of the literature this run reproduces."""
        row = mapping(self.config.get("published"))
        miou = number(row.get("miou"))
        return None if miou is None else (miou / 100, str(row.get("split", "")))

    @property
    def modalities(self) -> list[str]:
        """Names, in the model's order."""
        return [str(m) for m in listed(self.result.get("modalities") or self.setting("modality", "streams"))]

    def setting(self, *path: str) -> Any:
        """A value of config.yaml, or None."""
        node: Any = self.config
        for key in path:
            node = mapping(node).get(key)
        return node


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in `folders`, named by the parts of their paths in which they differ."""
    return [read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def read_run(folder: Path, name: str | None = None) -> Run:
    """What a run folder holds, whether the run has finished or not.

    Args:
        folder: of ktb-train or ktb-eval.
        name: what the run is called in reports; None: the last two parts of its path.

    Raises:
        ReportError: not a run folder, or a file in it that cannot be read.
    """
    config_file, result_file = folder / CONFIG, folder / RESULT
    if not folder.exists():
        raise ReportError(
            f"{folder}: {absent(folder, 'no such folder')}; expected a run folder of ktb-train or ktb-eval"
        )
    check_readable(folder)
    if not config_file.is_file() and not result_file.is_file():
        within = sorted(str(file.parent) for file in folder.glob(f"*/{CONFIG}") if not is_hidden(file.parent.name))
        hint = f"; runs in it: {', '.join(within[:3])}{', ...' * (len(within) > 3)}" if within else ""
        raise ReportError(
            f"{folder}: no run folder of ktb-train or ktb-eval (neither config.yaml nor result.json){hint}"
        )
    return Run(
        folder=folder,
        name=name or _names([folder])[0],
        config=with_current_settings(_read_yaml(config_file)),
        result=read_result(folder),
        curves=_read_curves(folder / METRICS),
        panels=read_json(folder / PANELS_INDEX),
        fusion=read_json(folder / FUSION_INDEX),
        robustness=read_json(newest_robustness(folder)),
    )


def check_readable(folder: Path) -> None:
    """Raises ReportError for a folder that may not be looked into."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise ReportError(f"{folder}: not readable; expected a folder that you may open")


def newest_robustness(folder: Path) -> Path:
    """Of the run itself, else of its latest evaluation that has one."""
    later = [file for file in folder.glob(f"{EVALUATIONS}/*/{ROBUSTNESS}") if not is_hidden(file.parent.name)]
    found = [folder / ROBUSTNESS, *sorted(later, reverse=True)]
    return next((path for path in found if path.is_file()), found[0])


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ReportError(f"{file}: not readable as YAML ({one_line(error)})") from None
    if not isinstance(content, dict):
        raise ReportError(f"{file}: expected settings (key: value), found {type(content).__name__}")
    return content


def _read_curves(file: Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    if not file.exists():
        return curves
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            # A training killed while it wrote leaves half a line, which it writes anew when it goes on.
            whole = (line for line in lines if line.endswith("\n"))
            for row in csv.DictReader(whole):
                step = float(row["step"])
                for key, text in row.items():
                    if text and key not in ("step", "epoch") and math.isfinite(value := float(text)):
                        curves.setdefault(key, []).append((step, value))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ReportError(f"{file}: not a table of metrics as ktb-train writes it ({error})") from None
    return curves


def _names(folders: Sequence[Path]) -> list[str]:
    paths = [expanded(folder).absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        twice = next(p for i, p in enumerate(paths) if p in paths[:i])
        raise ReportError(f"{twice}: named twice; expected each run once")
    if not paths:
        return []
    if len(paths) == 1:
        return ["/".join(paths[0].parts[-2:]).lstrip("/")]
    common = Path(os.path.commonpath(paths))
    return [path.relative_to(common).as_posix() if path != common else path.name for path in paths]


# -------------------------------------------------------------------------------------------------------------- tables


def protocol(result: Mapping[str, Any]) -> str:
    """How the scores of result.json were taken, in words."""
    return str(mapping(result.get("protocol")).get("description") or "-")


def left_out(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that the means of result.json leave out."""
    return tuple(map(str, listed(mapping(result.get("protocol")).get("mean_without"))))


def without(classes: Sequence[str]) -> str:
    """What stands behind the name of a mean that leaves `classes` out."""
    return f" without {', '.join(classes)}" if classes else ""


def own_scores(result: Mapping[str, Any]) -> str:
    """The values of metrics of the user's own, in words; empty where there are none."""
    own = [(key, v) for key, v in mapping(result.get("metrics")).items() if key not in (*SCORES, "miou_all")]
    return ", ".join(f"{key} {v:.4g}" for key, v in own if isinstance(v, int | float))


def scored_how(result: Mapping[str, Any]) -> str:
    """Data set, split and protocol of the scores of result.json."""
    return f"{result.get('dataset', '-')} {result.get('split', '-')} split, {protocol(result)}"


def run_table(runs: Sequence[Run]) -> Table:
    """A row per run: what it is, its scores, and the published number beside them."""
    keys = [key for key in SCORES if any(key in run.scores for run in runs)]
    published = any(run.published for run in runs)
    failed = any(run.failure for run in runs)
    heads = ["run", "data set", "split", "protocol", "modalities", "backbone", "checkpoint", "seed"]
    rows: list[list[Value]] = []
    for run in runs:
        r = run.result
        row: list[Value] = [
            run.name,
            _text(r.get("dataset", run.setting("dataset", "name"))),
            _text(r.get("split")),
            protocol(r) if r else None,
            ", ".join(run.modalities) or None,
            _text(r.get("backbone", run.setting("backbone", "name"))),
            _text(r.get("checkpoint")),
            _text(r.get("seed", run.setting("seed"))),
            *(run.scores.get(key) for key in keys),
        ]
        if published:
            row += [run.published[0], difference(run)] if run.published else [None, None]
        if failed:
            row.append(run.failure and f"failed: {run.failure}")
        rows.append(row)
    heads += [SCORES[key] for key in keys] + (["published mIoU", "difference"] if published else [])
    heads += ["state"] if failed else []
    return Table("Runs, scores in %", heads, rows)


def difference(run: Run) -> float | None:
    """Own mIoU less the published one; None unless both are of the same split and over the same classes."""
    miou = run.scores.get("miou")
    if run.published is None or miou is None or run.mean_without:
        return None
    value, split = run.published
    return miou - value if not split or split == run.result.get("split") else None


def class_table(runs: Sequence[Run]) -> Table:
    """IoU of every class, a column per run; a class that a run's means leave out says so."""
    left = {name for run in runs for name in run.mean_without}
    classes = list(dict.fromkeys(name for run in runs for name in run.per_class))
    rows: list[list[Value]] = [
        [name + " (not in the mean)" * (name in left)]
        + [number(run.per_class.get(name, {}).get("iou")) for run in runs]
        for name in classes
    ]
    scored = " | ".join(dict.fromkeys(scored_how(run.result) for run in runs if run.scores))
    return Table(f"IoU per class, %; {scored}", ["class", *(run.name for run in runs)], rows)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def differing_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(dotted setting, its value in each run) wherever the runs' configurations differ."""
    flat = [dict(_flatten(run.config)) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    own = ("run_dir", "ckpt_path", "overwrite", "logger", "hydra", "inherited", "checkpoint", "published")
    found = []
    for key in keys:
        values = [settings.get(key, "-") for settings in flat]
        if len(set(values)) > 1 and key.split(".")[0] not in own:
            found.append((key, values))
    return found


def _flatten(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", json.dumps(value, default=str) if isinstance(value, list) else str(value)))
    return found
