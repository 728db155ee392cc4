"""A sweep folder as a multirun leaves it, some of its jobs unfinished."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from ktb.cli.report import main
from ktb.errors import ReportError
from ktb.report.sweep_summary import show, summarise

SCORES = {("ce", 1): 0.61, ("ce", 2): 0.65, ("ce", 3): 0.66, ("ohem", 1): 0.7}

ABOUT = {"dataset": "nyu", "split": "test", "protocol": {"description": "whole images"}}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    jobs = {}
    for number, (loss, seed) in enumerate([*SCORES, ("ohem", 2), ("ohem", 3)]):
        overrides = [f"loss={loss}", f"seed={seed}", "optim.lr=1"]
        jobs[str(number)] = overrides
        folder = tmp_path / str(number)
        folder.mkdir()
        score = SCORES.get((loss, seed))
        if score is not None:
            (folder / "result.json").write_text(json.dumps({**ABOUT, "metrics": {"miou": score, "macc": score / 2}}))
            job = {"overrides": overrides, "status": "finished", "exit_code": 0, "error": None, "attempts": 1}
        elif seed == 2:
            job = {"overrides": overrides, "status": "failed", "exit_code": 2, "error": "no\nmemory", "attempts": 3}
        else:
            continue  # not begun
        (folder / "job.json").write_text(json.dumps(job))
    (tmp_path / "sweep.json").write_text(json.dumps({"command": ["ktb-train", "-m"], "created": "now", "jobs": jobs}))
    return tmp_path


def test_states_and_scores_over_seeds(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(sweep)
    assert found.counts() == "6 jobs: 4 finished, 1 pending, 1 failed"
    assert found.jobs[4].error == "no memory"
    assert found.jobs[4].attempts == 3
    assert main(["sweep", str(sweep), "--format", "csv"]) == 0
    ohem, ce = csv.DictReader(io.StringIO(capsys.readouterr().out))  # best first
    assert (ohem["setting"], ohem["mIoU mean"], ohem["mIoU std"], ohem["scored"]) == ("loss=ohem", "0.7", "", "1/3")
    scores = [s for (loss, _), s in SCORES.items() if loss == "ce"]
    assert float(ce["mIoU mean"]) == pytest.approx(statistics.mean(scores), abs=1e-15)
    assert float(ce["mIoU std"]) == pytest.approx(statistics.stdev(scores), abs=1e-15)


def test_what_settings_cost_and_how_they_do_without_sensors(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the scores, of jobs that know it; where sizes differ, none is named."""
    missing = {"0": (0.4, 0.3), "1": (0.5, 0.4), "2": (0.6, 0.5)}
    for name, (zeros, masked) in missing.items():
        emm = {"zeros": {"summary": {"avg": zeros}}, "masked": {"summary": {"avg": masked}}}
        (sweep / name / "robustness.json").write_text(json.dumps({"emm": emm}))
    for name, seconds in {"0": 60, "1": 120, "2": 240, "3": 30}.items():
        file = sweep / name / "result.json"
        about = {"parameters": {"total": 5_000_000, "trained": 412_345}, "wall_time_s": seconds}
        about["operations"] = {"size": [96, 128], "flops": 1_234_000_000}
        file.write_text(json.dumps({**json.loads(file.read_text()), **about}))
    assert main(["sweep", str(sweep), "--format", "markdown"]) == 0
    heads, _, ohem, ce = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    assert heads == [
        "setting", "mIoU", "mAcc", "pixel accuracy", "mIoU, sensors missing, as zeros",
        "mIoU, sensors missing, left out", "trained, M", "GFLOP at 96x128", "minutes", "scored",
    ]  # fmt: skip
    assert ce == [
        "loss=ce",
        "64.00 ± 2.65",
        "32.00 ± 1.32",
        "-",
        "50.00 ± 10.00",
        "40.00 ± 10.00",
        "0.412",
        "1.23",
        "2.3",
        "3/3",
    ]
    assert ohem == ["loss=ohem", "70.00", "35.00", "-", "-", "-", "0.412", "1.23", "0.5", "1/3"]
    main(["sweep", str(sweep), "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(rows[1]["trained, M"]) == 0.412345
    assert float(rows[1]["mIoU, sensors missing, left out mean"]) == pytest.approx(0.4, abs=1e-15)
    other = {**about, "operations": {"size": [64, 64], "flops": 1_000_000_000}}
    (sweep / "3" / "result.json").write_text(json.dumps({**ABOUT, "metrics": {"miou": 0.7}, **other}))
    main(["sweep", str(sweep), "--format", "csv"])
    assert "GFLOP" in next(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert main(["sweep", str(sweep), "--out", str(sweep / "page.html")]) == 0
    assert "0.412" in (sweep / "page.html").read_text()


def test_a_sweep_without_scores_yet_is_a_page_too(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.unlink()
    assert main(["sweep", str(sweep), "--out", str(sweep / "page.html")]) == 0
    assert "0/3" in (sweep / "page.html").read_text()


def test_show_prints_jobs_errors_and_spread(sweep: Path) -> None:
    console = Console(width=160, file=io.StringIO())
    show(sweep, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no memory" in text
    assert "64.00 ± 2.65" in text
    assert text.count("nyu test split, whole images; optim.lr=1") == 2  # once in every title, not in every row
    assert text.count("optim.lr") == 2
    assert text.endswith("6 jobs: 4 finished, 1 pending, 1 failed\n")


def test_one_job_per_setting_needs_no_second_table(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"0": ["seed=1"], "1": ["seed=2", "optim.lr=1"]}}))
    console = Console(width=120, file=io.StringIO())
    show(tmp_path, console)
    assert "Mean" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_job_outside_the_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"../../etc": []}}))
    with pytest.raises(ReportError, match=r"job '\.\./\.\./etc' lies outside"):
        summarise(tmp_path)
