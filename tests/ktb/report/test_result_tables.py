"""What is printed and drawn at the end of an evaluation holds the numbers of its result."""

from __future__ import annotations

import copy
import io
import re
import warnings
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from ktb.report import result_tables as tables

ABOUT = {
    "dataset": "rooms",
    "split": "val",
    "modalities": ["rgb", "depth"],
    "protocol": {"name": "whole", "description": "whole image, scored at the label's own size"},
    "checkpoint": "runs/mine/checkpoints/best.ckpt",
}


def run(miou: float, *affected: str, **side: float) -> dict[str, Any]:
    return {"affected": list(affected), "metrics": {"miou": miou}} | ({"side": side} if side else {})


def sums(avg: float, worst: float) -> dict[str, Any]:
    return {"avg": avg, "expected": {"0.2": avg + 0.1}, "worst": worst, "drop": 0.6 - worst}


RESULT = ABOUT | {
    "full": run(0.6, rgb=0.5, depth=0.4),
    "emm": {
        "zeros": {
            "runs": [run(0.1, "rgb", depth=0.2), run(0.3, "depth", rgb=0.45)],
            "summary": sums(0.33, 0.1),
            "summary_side": sums(0.42, 0.2),
        },
        "masked": {
            "runs": [run(0.25, "rgb", depth=0.21), run(0.35, "depth", rgb=0.46)],
            "summary": sums(0.4, 0.25),
            "summary_side": sums(0.43, 0.21),
        },
    },
    "rmm": {"0.5": {"runs": [run(0.5, "rgb"), run(0.55, "depth")], "summary": sums(0.55, 0.5)}},
    "nm": {"low": {"runs": [run(0.52, "rgb", "depth")], "drop": 0.08}},
}


def rows(table: Table) -> dict[str, list[str]]:
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    cells = [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in text.getvalue().splitlines()]
    return {first: rest for first, *rest in filter(None, cells) if first}


def test_tables_of_failing_sensors() -> None:
    emm, rmm, nm = map(rows, tables.robustness_tables(RESULT))
    assert emm["nothing"] == ["60.00"] * 4
    assert emm["rgb"] == ["10.00", "depth 20.00", "25.00", "depth 21.00"]
    assert emm["depth"] == ["30.00", "rgb 45.00", "35.00", "rgb 46.00"]
    assert emm["Avg"] == ["33.00", "42.00", "40.00", "43.00"]
    assert emm["E(0.2)"] == ["43.00", "52.00", "50.00", "53.00"]
    assert emm["worst"] == ["10.00", "20.00", "25.00", "21.00"]
    assert emm["drop (nothing - worst)"] == ["50.00", "40.00", "35.00", "39.00"]
    assert rmm["depth"] == ["55.00"]
    assert nm["low"] == ["52.00", "8.00"]


def test_a_model_without_side_heads_has_the_fused_column_only() -> None:
    plain = {"runs": [run(0.1, "rgb"), run(0.3, "depth")], "summary": sums(0.33, 0.1)}
    (emm,) = tables.robustness_tables(ABOUT | {"full": run(0.6), "emm": {"zeros": plain}})
    assert rows(emm)["rgb"] == ["10.00"]


def test_plot_of_failing_sensors() -> None:
    figure = tables.robustness_figure(RESULT)
    emm, rmm, nm = figure.axes
    assert [bar.get_width() for bar in emm.patches] == pytest.approx([10, 20, 25, 21, 30, 45, 35, 46])
    for line, values in zip(rmm.lines, ([60, 50], [60, 55], [60, 55]), strict=True):
        assert list(line.get_ydata()) == pytest.approx(values)
    assert [bar.get_height() for bar in nm.patches] == pytest.approx([60, 52])
    title = figure.get_suptitle()
    assert title.replace("\n", " ") == tables.heading(RESULT).replace("\n", " ")
    assert all(word in title for word in ("rooms", "val", "rgb + depth", "whole image", "best.ckpt"))


def test_nothing_of_the_plot_is_cut_off() -> None:
    emm = copy.deepcopy({key: value for key, value in RESULT.items() if key not in ("rmm", "nm")})
    emm["protocol"]["description"] = "multi-scale (0.5, 0.75, 1, 1.25, 1.5, 1.75) and flip, scored at the label size"
    emm["full"]["metrics"]["miou"] = 0.05  # less than with a sensor missing
    figure = tables.robustness_figure(emm)
    figure.draw_without_rendering()
    title = figure._suptitle.get_window_extent()
    assert figure.bbox.x0 <= title.x0
    assert title.x1 <= figure.bbox.x1
    (axis,) = figure.axes
    assert axis.get_xlim()[1] > 46


def test_plot_of_a_model_that_has_learned_nothing() -> None:
    emm = copy.deepcopy({key: value for key, value in RESULT.items() if key not in ("rmm", "nm")})
    emm["full"]["metrics"]["miou"] = 0.0
    for group in emm["emm"].values():
        for run in group["runs"]:
            run["metrics"]["miou"] = 0.0
            run["side"] = dict.fromkeys(run["side"], 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables.robustness_figure(emm)


def test_names_are_no_markup() -> None:
    row = {"iou": 0.5, "acc": 0.5, "f1": 0.5, "boundary_iou": None}
    means = {"mboundary_iou": None, "miou": 0.5, "macc": 0.5, "mf1": 0.5, "pixel_acc": 0.5}
    classes, conditions = tables.score_tables(
        {
            "per_class": {"[void]": row, "road [paved]": row, "[/b]": row},
            "per_condition": {"[time]": {"[night]": {"samples": 1, "metrics": means}}},
            "metrics": {**means, "mboundary_iou": None},
        }
    )
    assert {"[void]", "road [paved]", "[/b]"} < set(rows(classes))
    assert set(rows(conditions)) == {"[time]", "[night]"}


def test_a_mean_says_which_classes_it_leaves_out() -> None:
    row = {"iou": 0.5, "acc": 0.5, "f1": 0.5, "boundary_iou": None}
    means = {"mboundary_iou": None, "miou": 0.25, "miou_all": 0.25, "macc": 0.5, "mf1": 0.5, "pixel_acc": 0.5}
    result = {
        "per_class": {"sky": row},
        "per_condition": {"time": {"night": {"samples": 1, "metrics": means}}},
        "metrics": means,
        "protocol": {"mean_without": ["sky", "sea"]},
    }
    classes, conditions = tables.score_tables(result)
    assert rows(classes)["mean without sky, sea"][0] == "25.00"
    assert "mIoU without sky, sea" in rows(conditions)["time"]
    assert tables.score_line(result).startswith("mIoU without sky, sea 25.00,")


def test_a_split_without_labels_has_no_second_mean() -> None:
    assert (
        tables.score_line({"metrics": {"miou": None, "miou_all": 0.0, "pixel_acc": None}}) == "mIoU -, pixel accuracy -"
    )
    line = tables.score_line({"metrics": {"miou": 0.5, "miou_all": 0.25, "pixel_acc": 0.75}})
    assert line == "mIoU 50.00, pixel accuracy 75.00 (mIoU with absent classes counted as 0: 25.00)"
