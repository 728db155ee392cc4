"""Numbers in tables are those of result.json, whatever the format and whatever the names contain."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ktb.cli.report import main
from ktb.report.page import page
from ktb.report.runs import read_run
from ktb.report.table_formats import Spread, Table, latex, markdown

NASTY = "a|b_<c>&\\$%"


def run_folder(folder: Path, seed: int = 1, **result: Any) -> Path:
    folder.mkdir(parents=True)
    content = {
        "dataset": NASTY, "split": "test", "protocol": {"description": "whole"}, "modalities": ["rgb", "depth"],
        "backbone": "swin_b",
        "seed": seed, "metrics": {"miou": 0.123456789 * seed, "macc": 0.5, "pixel_acc": None},
        "per_class": {NASTY: {"iou": 0.98765 / seed, "acc": 1.0, "f1": None}, "wall": {"iou": None}},
        **result,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(f"seed: {seed}\npublished: {{miou: 59.0, split: test}}\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(run_folder(tmp_path / "x" / f"run_{seed}", seed)) for seed in (1, 2)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_markdown(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    title, empty, head, rule, *rows = printed(capsys, *runs, "--format", "markdown").splitlines()
    assert (title, empty) == ("Runs, scores in %", "")
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in (head, *rows)]
    assert {len(row) for row in cells} == {len(rule.split("|")) - 2}
    table = dict(zip(cells[0], cells[2], strict=True))
    assert table["run"] == r"run\_2"
    assert table["data set"] == r"a\|b\_\<c\>&\\$%"
    assert (table["mIoU"], table["mAcc"], table["pixel accuracy"]) == ("24.69", "50.00", "-")
    assert (table["published mIoU"], table["difference"]) == ("59.00", "-34.31")


def test_latex(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *runs, "--format", "latex", "--table", "classes").splitlines()
    assert lines.pop(0) == f"% IoU per class, %; {NASTY} test split, whole"
    lines = [" ".join(line.split()) for line in lines]
    assert lines[:4] == [r"\begin{tabular}{lrr}", r"\toprule", r"class & run\_1 & run\_2 \\", r"\midrule"]
    nasty = r"a|b\_\ensuremath{<}c\ensuremath{>}\&\textbackslash{}\$\%"
    assert lines[4:6] == [nasty + r" & 98.77 & 49.38 \\", r"wall & - & - \\"]


def test_signs_and_numbers_stay_as_they_are_in_every_form() -> None:
    table = Table("t · x", ["a · b", "n"], [["007", Spread(0.5, 0.25, 2)], ["1e5\n ", None]])
    rows = [" ".join(line.split()) for line in latex(table).splitlines()]
    assert rows[0] == "% t · x"
    assert rows[3] == r"a $\cdot$ b & n \\"
    assert rows[5:7] == [r"007 & 50.00 $\pm$ 25.00 \\", r"1e5 & - \\"]
    rows = [" ".join(line.split()) for line in markdown(table).splitlines()]
    assert rows[2] == "| a · b | n |"
    assert rows[4:] == ["| 007 | 50.00 ± 25.00 |", "| 1e5 | - |"]


def test_a_table_without_rows_has_its_columns() -> None:
    assert r"\begin{tabular}{ll}" in latex(Table("t", ["a", "b"], []))
    assert "| a" in markdown(Table("t", ["a", "b"], []))


def test_csv_keeps_every_digit(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(capsys, *runs, "--format", "csv"))))
    assert [float(row["mIoU"]) for row in rows] == [0.123456789, 0.123456789 * 2]
    assert [row["data set"] for row in rows] == [NASTY, NASTY]
    assert rows[0]["pixel accuracy"] == ""


def test_a_difference_needs_the_same_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", split="val")
    rows = list(csv.DictReader(io.StringIO(printed(capsys, str(folder), "--format", "csv"))))
    assert (rows[0]["published mIoU"], rows[0]["difference"]) == ("0.59", "")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", "result.json: not readable as JSON"),
        ("result.json", "[1]", "result.json: expected a JSON object, found list"),
        ("config.yaml", "a: [b", "config.yaml: not readable as YAML"),
        ("config.yaml", "!!python/object/apply:os.system ['true']", "config.yaml: not readable as YAML"),
        ("metrics.csv", "step,train/loss\n1,two\n", "metrics.csv: not a table of metrics"),
    ],
)
def test_damaged_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / name).write_text(content)
    assert main([str(folder), "--format", "text"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_table_without_a_format_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run")
    assert main([str(folder), "--table", "classes"]) == 0
    as_asked = capsys.readouterr().out
    assert main([str(folder), "--table", "classes", "--format", "text"]) == 0
    assert as_asked == capsys.readouterr().out
    assert not (folder / "report.html").exists()


def test_wrong_folders_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path / "one")
    for arguments, message in (
        ([str(tmp_path), "--format", "text"], "no run folder of ktb-train or ktb-eval"),
        ([str(tmp_path)], f"; runs in it: {tmp_path / 'one'}"),
        ([str(tmp_path / "nope")], "nope: no such folder; expected a run folder"),
        (["sweep", str(tmp_path)], "no sweep folder of ktb-train -m"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_reading_run_folders_needs_no_torch(runs: list[str]) -> None:
    code = (
        f"import sys; from ktb.cli.report import main; main({[*runs, '--format', 'csv']!r});"
        "assert not {'torch', 'numpy', 'matplotlib', 'wandb', 'omegaconf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_classes_left_out_of_the_mean_stand_in_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protocol = {"description": "whole, means without wall", "mean_without": ["wall"]}
    folder = run_folder(tmp_path / "run", protocol=protocol)
    for kind in ("text", "csv", "markdown", "latex"):
        text = " ".join(printed(capsys, str(folder), "--format", kind).split())
        assert "wall" in text, kind  # text is folded into narrow columns
        assert "wall (not in the mean)" in printed(capsys, str(folder), "--format", kind, "--table", "classes")
    row = next(csv.DictReader(io.StringIO(printed(capsys, str(folder), "--format", "csv"))))
    assert row["protocol"] == "whole, means without wall"
    assert row["difference"] == ""  # the published mean is over all classes
    jobs = {name: [f"seed={name}"] for name in ("1", "2")}
    sweep = tmp_path / "sweep"
    for name in jobs:
        run_folder(sweep / name, int(name), protocol=protocol)
    (sweep / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    for table in ("scores", "jobs"):
        heads = printed(capsys, "sweep", str(sweep), "--format", "csv", "--table", table).splitlines()[0]
        assert "mIoU without wall" in heads
    assert main([str(folder), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "mIoU without wall, %" in text
    assert "means without wall" in text
    assert 'wall <span class="soft">not in the mean</span>' in text


def test_a_run_that_failed_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = run_folder(tmp_path / "x" / "good")
    bad = run_folder(tmp_path / "x" / "bad")
    reason = "step 12: loss is nan; last good checkpoint: none yet"
    (bad / "result.json").write_text(json.dumps({"status": "failed", "error": reason}))
    rows = list(csv.DictReader(io.StringIO(printed(capsys, str(good), str(bad), "--format", "csv"))))
    assert [row["state"] for row in rows] == ["", f"failed: {reason}"]
    assert [row["mIoU"] != "" for row in rows] == [True, False]
    alone = read_run(bad)
    assert f"failed: {reason}" in page([alone])
    assert "has not finished" not in page([alone])
    assert (alone.failure, read_run(good).failure) == (reason, None)
