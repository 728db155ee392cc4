"""result.json: what a training or an evaluation came to, as types, and reading it whoever has written it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from ktb.run_folder.files import read_json
from ktb.run_folder.names import RESULT


class Scores(TypedDict, total=False):
    """Scores in [0, 1]; None where there was nothing to score."""

    metrics: dict[str, float | None]
    """Of all classes together: "miou", "macc", "pixel_acc", ..."""
    per_class: dict[str, dict[str, float | None]]
    """Class → "iou", "acc", "f1", "boundary_iou"."""


class ConditionScores(Scores, total=False):
    """Scores of the samples that have one value of a condition, such as "night"."""

    samples: int


class Protocol(TypedDict, total=False):
    """How a split was scored."""

    name: str
    """The member of the group eval."""
    description: str
    settings: dict[str, Any]
    mean_without: list[str]
    """Classes that the means leave out."""


class Operations(TypedDict, total=False):
    """What one image costs in inference."""

    size: list[int]
    """Its height and width in pixels, as the model gets it."""
    flops: int
    """Two per multiply-add, see `ktb.models.profile`."""


class RunResult(Scores, total=False):
    """What result.json holds. Any key may be missing: it was written by an earlier version, or by a failed run."""

    status: Literal["finished", "failed"]
    cause: str
    """Of a failed run: "not finite"."""
    error: str

    dataset: str
    split: str
    protocol: Protocol
    scoring: str
    """What there was of the protocol in earlier versions."""
    modalities: list[str]
    """Those that the model used, in its order."""
    backbone: str
    seed: int

    confusion_matrix: list[list[int]]
    """Pixels by true class (row) and predicted class."""
    per_condition: dict[str, dict[str, ConditionScores]]
    """Condition → its value → scores."""
    labels: bool
    """False: the split has none, so there are no scores."""
    predictions: str
    """Then: the folder of the predicted masks."""

    checkpoint: str | None
    """The one that was scored; of a run, relative to its folder."""
    epochs: int
    steps: int
    stopped_early: str
    """Of a training that early stopping ended: why."""
    best_val_miou: float | None
    selection_split: str
    init_from: dict[str, Any]
    """What was taken from the weights that the run started from."""

    parameters: dict[str, int]
    """"total" and "trained"."""
    operations: Operations | None
    """None where they could not be counted."""
    wall_time_s: float
    peak_memory_mb: int | None
    peak_gpu_memory_mb: int | None
    versions: dict[str, str]
    git: dict[str, Any] | None
    command: list[str]


def read_result(folder: Path) -> RunResult:
    """The result.json of a run or evaluation folder; empty when there is none yet.

    Raises:
        ReportError: unreadable, no JSON, or no object.
    """
    return parsed(read_json(folder / RESULT))


def parsed(content: Mapping[str, Any]) -> RunResult:
    """What of a JSON object is a result: values of another type than the schema's are left out, with the entry of a
    mapping that they stand in, or with the list. So are keys that the schema does not have."""
    return cast(RunResult, _fitting(dict(content), RunResult))


class _Misfit(Exception):
    """A value is not of the type that it should be."""


def _fitting(value: Any, hint: Any) -> Any:
    """`value` as far as it is of the type `hint`.

    Raises:
        _Misfit: nothing of it is.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        for kind in arguments:
            try:
                return _fitting(value, kind)
            except _Misfit:
                continue
    elif origin is Literal and value in arguments:
        return value
    elif is_typeddict(hint) and isinstance(value, dict):
        kinds = get_type_hints(hint)
        return _entries({key: (value[key], kinds[key]) for key in kinds if key in value})
    elif origin is dict and isinstance(value, dict):
        return _entries({str(key): (item, arguments[1]) for key, item in value.items()})
    elif origin is list and isinstance(value, list):
        return [_fitting(item, arguments[0]) for item in value]
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer of hundreds of digits
            pass
    elif hint is int and isinstance(value, bool):
        pass
    elif not is_typeddict(hint) and isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _Misfit


def _entries(wanted: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Those of key → (value, type) that fit."""
    found = {}
    for key, (value, hint) in wanted.items():
        try:
            found[key] = _fitting(value, hint)
        except _Misfit:
            continue
    return found
