"""What is said about runs that went wrong in some way, and that nothing is said about one that went well."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe
import pytest
import yaml

from ktb.report.notices import WHAT_TO_DO, notices
from ktb.report.page import page
from ktb.report.runs import read_run, read_runs

EVIL = "<b>crop</b>\"'&"
RISING = [0.3, 0.4, 0.45, 0.48, 0.5, 0.51, 0.515, 0.52]
REMEDY = f"a larger optim.lr, more epochs ({WHAT_TO_DO})"


def made(
    folder: Path,
    matrix: Sequence[Sequence[int]] | None,
    curves: Mapping[str, Sequence[float]] | None = None,
    classes: Sequence[str] = ("soil", "weed", "crop"),
    config: Mapping[str, Any] | None = None,
    **result: Any,
) -> Path:
    """A run folder with these counts (rows are true classes) and these values of each validation."""
    folder.mkdir(parents=True)
    scored = {"per_class": {name: {"iou": 0.5} for name in classes}, "confusion_matrix": matrix} if matrix else {}
    content = {"epochs": 40, "modalities": ["red", "nir"], "metrics": {"miou": 0.5}, **scored, **result}
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config or {"seed": 1})))
    curves = curves or {"val/miou": RISING}
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = zip(*curves.values(), strict=True)
        csv.writer(file).writerows([["step", *curves], *([10 * i, *row] for i, row in enumerate(rows))])
    return folder


def said(folder: Path) -> list[str]:
    return notices(read_run(folder))


GOOD = [[900, 10, 5], [5, 50, 5], [2, 3, 20]]


def test_a_run_that_went_well_has_no_notice(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", GOOD, {"val/miou": RISING, "val_iou/crop": [0.0] * 7 + [0.3]})
    assert said(folder) == []
    assert 'id="notices"' not in page([read_run(folder)])


def test_splits_without_a_pixel_of_any_class(tmp_path: Path) -> None:
    void = [[0, 0, 0]] * 3
    about = {"status": "finished", "split": "test", "selection_split": "val", "best_val_miou": None}
    config = {"trainer": {"limit_val_batches": 1.0}}
    no_scores = "the test split has no pixel of any class, so there are no scores; ktb-data check says what its labels"
    last = "no validation has a score, as val has no pixel of any class: the last checkpoint was taken for the best;"
    texts = said(made(tmp_path / "both", void, config=config, **about))
    assert [text[: len(start)] for text, start in zip(texts, (no_scores, last), strict=True)] == [no_scores, last]
    (text,) = said(made(tmp_path / "val", GOOD, config=config, **about))
    assert text.startswith(last)
    rare = {"trainer": {"limit_val_batches": 1.0, "check_val_every_n_epoch": 100}}
    (text,) = said(made(tmp_path / "rare", GOOD, config=rare, **about, epochs=2))
    assert text.startswith("there was no validation in 2 epochs (trainer.check_val_every_n_epoch=100): the last")
    (text,) = said(made(tmp_path / "train", GOOD, {"train/loss": [0.0] * 3}))
    assert text.startswith("the loss is 0 in all 3 steps logged: no label of train has a pixel of any class; ktb-data")
    # Nobody wanted a validation, or a test without labels.
    assert said(made(tmp_path / "without", GOOD, config={"trainer": {"limit_val_batches": 0}}, **about)) == []
    assert said(made(tmp_path / "unlabelled", void, labels=False)) == []


def test_a_class_that_is_never_predicted(tmp_path: Path) -> None:
    matrix = [[920, 5, 0], [9, 50, 0], [10, 6, 0]]
    curves = {"val/miou": RISING, "val_iou/crop": [0.0] * 8}
    folder = made(tmp_path / "run", matrix, curves)
    expected = "class crop: never predicted in 40 epochs; 1.6 % of pixels; try loss.class_weights=auto, "
    assert said(folder) == [f"{expected}head.init=small, {REMEDY}"]
    has_them = {"loss": {"class_weights": [1.0, 2.0, 3.0]}, "head": {"init": "small"}}
    assert said(made(tmp_path / "weighted", matrix, curves, config=has_them)) == [
        f"class crop: never predicted in 40 epochs; 1.6 % of pixels; try {REMEDY}"
    ]
    curves["val_iou/crop"] = [0.0] * 7 + [0.034]
    assert said(made(tmp_path / "lost", matrix, curves))[0].startswith(
        "class crop: never predicted (best IoU in validation 3.4 %); 1.6 % of pixels; try "
    )


def test_a_class_that_is_predicted_in_wrong_places_only(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", [[920, 5, 5], [4, 50, 0], [10, 6, 0]])
    assert said(folder)[0].startswith("class crop: not one pixel of it found in 40 epochs; 1.6 % of pixels; try loss.")


def test_a_class_that_is_hardly_ever_found(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", [[8900, 50, 50], [40, 500, 0], [140, 58, 2]])
    assert said(folder)[0].startswith(
        "class crop: IoU 0.8 % in 40 epochs; 2.1 % of pixels; try loss.class_weights=auto"
    )
    better = made(tmp_path / "better", [[8900, 50, 50], [40, 500, 0], [140, 50, 10]])
    assert said(better) == []


def test_classes_without_a_pixel_are_no_news(tmp_path: Path) -> None:
    assert said(made(tmp_path / "run", [[920, 5, 5], [4, 50, 0], [0, 0, 0]])) == []


def test_one_class_for_every_pixel_is_said_once(tmp_path: Path) -> None:
    found = said(made(tmp_path / "run", [[920, 0, 0], [54, 0, 0], [16, 0, 0]]))
    assert [text[:52] for text in found] == ["every pixel is predicted as soil; try loss.class_wei"]


def test_a_run_without_test_scores(tmp_path: Path) -> None:
    curves = {"val/miou": RISING, "val_iou/soil": [0.9] * 8, "val_iou/crop": [0.0] * 8}
    found = said(made(tmp_path / "run", None, curves))
    assert [text[:55] for text in found] == ["class crop: IoU 0 in all 8 validations; try loss.class_"]
    early = {name: values[:7] for name, values in curves.items()}
    assert said(made(tmp_path / "early", None, early)) == []


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.31] * 8, "validation mIoU is 31.00 % in all 8 validations: nothing is learned"),
        ([1.0] * 8, None),  # one class, or solved
        ([0.31] * 7, None),
        ([*RISING[:6], 0.53, 0.56], "validation mIoU was best at the end, and 5.0 points above anything before the"),
        ([*RISING[:6], 0.57, 0.56], None),  # not best at the end
        ([*RISING[:5], 0.55, 0.53, 0.56], None),  # noise of that size was there before
    ],
)
def test_the_course_of_the_validation(tmp_path: Path, scores: list[float], expected: str | None) -> None:
    found = said(made(tmp_path / "run", GOOD, {"val/miou": scores}))
    assert [text[: len(expected or "")] for text in found] == ([expected] if expected else [])


def test_a_sensor_that_adds_nothing(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", GOOD)

    def without(red: float, nir: float) -> dict[str, Any]:
        pairs = (("red", red), ("nir", nir))
        return {"runs": [{"affected": [name], "metrics": {"miou": miou}} for name, miou in pairs]}

    for masked, expected in (
        (without(0.3, 0.499), ["nir: without it the mIoU is 49.90 % instead of 50.00 %: the model makes no use of "]),
        (without(0.3, 0.45), []),  # as zeros it does no harm, but left out it is missed
    ):
        emm = {"zeros": without(0.2, 0.503), "masked": masked}
        (folder / "robustness.json").write_text(json.dumps({"full": {"metrics": {"miou": 0.5}}, "emm": emm}))
        assert [text[:82] for text in said(folder)] == expected


def test_the_page_shows_notices_escaped_and_whose_they_are(tmp_path: Path) -> None:
    matrix = [[920, 5, 0], [9, 50, 0], [10, 6, 0]]
    bad = made(tmp_path / "bad", matrix, classes=("soil", "weed", EVIL))
    text = page([read_run(bad)])
    assert f"<li>class {markupsafe.escape(EVIL)}: never predicted in 40 epochs; 1.6 % of pixels; try" in text
    assert EVIL not in text
    both = page(read_runs([made(tmp_path / "good", GOOD), bad]))
    assert f"<li><b>bad</b> class {markupsafe.escape(EVIL)}: never" in both
    assert both.count("<li>") == 1
