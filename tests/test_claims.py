"""`scripts/claims.py`: its claims stand where it says, its commands are ones, and one is measured end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktb.jobs.provenance import git_state
from tests.ktb.commands import Done, run_script

ROOT = Path(__file__).parents[1]


def claims(folder: Path, *arguments: str) -> Done:
    return run_script("claims", *arguments, cwd=folder)


def test_every_claim_stands_where_the_list_says(tmp_path: Path) -> None:
    done = claims(tmp_path, "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    named = [line for line in lines if not line.startswith(" ")]
    assert {"demo", "potholes", "ablation", "reference", "chaos"} <= {line.split(":")[0] for line in named}
    for line in named:
        file, quote = line.split(": ", 1)[1].split(", ", 1)
        assert quote in (ROOT / file).read_text(), line
    commands = [line for line in lines if line.startswith("    python ")]
    assert len(commands) >= len(named)
    for words in (line.split() for line in commands):
        if words[1].endswith(".py"):
            assert Path(words[1]).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "there is no claim 'nothing'; there are demo, "),
        (["potholes"], "potholes needs its data: give --root DIR"),
        (["potholes", "--root", "missing"], "--root missing is no folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = claims(tmp_path, "run", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def planted(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))


def test_runs_of_another_commit_are_not_written_down_as_of_this_one(tmp_path: Path) -> None:
    git = {"commit": "0123456" + 33 * "0", "changed": True}
    found = {
        "robustness": tmp_path / "found" / "demo",
        "ablation": tmp_path / "found" / "ablation" / "ablation_full_seed1",
    }
    for folder in found.values():
        planted(folder, status="finished", git=git, metrics={"miou": 0.5})
    done = claims(tmp_path, "run", *found, "--out", "found", "--override", "dataset.train=-1")
    assert done.returncode == 1
    for line, (name, folder) in zip(done.stderr.splitlines(), found.items(), strict=True):
        assert line.startswith(f"{name}: the run in {folder} is of commit 0123456 (changed), and this is ")
        assert line.endswith("; remove it, or give another --out")
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["ablation", "demo"]


@pytest.mark.slow
@pytest.mark.parametrize("status", ["finished", "failed"])
def test_a_demo_of_this_commit_is_taken_if_it_has_finished(status: str, tmp_path: Path) -> None:
    planted(tmp_path / "found" / "demo", status=status, git=git_state())
    done = claims(tmp_path, "run", "robustness", "--out", "found", "--override", "dataset.train=-1")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("robustness: exit code 2 (")
    assert ("ktb-eval: error: " in said) == (status == "finished")
    assert ("dataset.train" in said) == (status == "failed")


@pytest.mark.slow
def test_a_claim_is_measured(tmp_path: Path) -> None:
    tiny = ["dataset.size=[32,32]", "dataset.train=2", "dataset.val=1", "dataset.test=1", "dataset.batch_size=2",
            "trainer.max_epochs=1", "trainer.accelerator=cpu", "trainer.limit_val_batches=0"]  # fmt: skip
    done = claims(tmp_path, "run", "demo", "--out", "found", "--override", *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "found" / "demo.json").read_text())
    trained = json.loads((tmp_path / "found" / "demo" / "result.json").read_text())
    assert result["figures"]["steps"] == 1
    assert result["figures"]["miou"] == trained["metrics"]["miou"]
    assert result["figures"]["wall_time_s"] == trained["wall_time_s"]
    assert result["machine"]["matrix_gflops"] > 0
    assert result["git"] == trained["git"]
    assert {"device", "cores", "torch"} <= set(result["machine"])
    failed = claims(tmp_path, "run", "demo", "--out", "failed", "--override", "dataset.train=-1")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("demo: exit code 2 (")
    assert not (tmp_path / "failed" / "demo.json").exists()
