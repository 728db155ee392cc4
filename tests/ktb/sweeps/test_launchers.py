"""Which jobs run at the same time, on which GPUs, and through Slurm."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from ktb.sweeps.job import SweepJob
from tests.ktb.sweeps.fake_jobs import Train, began, plugin, ran, records, when


@pytest.mark.slow
def test_jobs_never_share_a_gpu_and_as_many_run_as_fit(train: Train) -> None:
    """Four pretended GPUs, jobs that last unequally and need unequally many."""
    plan = {seed: {"seconds": seconds} for seed, seconds in enumerate([0.6, 0.1, 0.4], 1)}
    pool = ("launcher=gpus", "launcher.gpus=4")
    assert train("-m", "seed=1,2,3", "trainer.devices=1,3,2,4", *pool, plan=plan) == 0
    jobs = ran()
    assert len(jobs) == 12
    for job in jobs:
        count = next(int(text[-1]) for text in job["argv"] if text.startswith("trainer.devices="))
        job["uses"] = job["gpus"].split(",")
        assert len(set(job["uses"])) == count
        assert set(job["uses"]) <= {"0", "1", "2", "3"}
    busiest = 0
    for job in jobs:  # at the moment each began
        others = [o for o in jobs if o is not job and o["begun"] <= job["begun"] < o["ended"]]
        assert not {gpu for o in others for gpu in o["uses"]} & set(job["uses"])
        busiest = max(busiest, len(job["uses"]) + sum(len(o["uses"]) for o in others))
    assert busiest == 4


def test_visible_gpus_are_the_pool(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7f")
    assert train("-m", "seed=1,2,3", "launcher=gpus", plan={n: {"seconds": 0.2} for n in (1, 2, 3)}) == 0
    assert {line["gpus"] for line in ran()} == {"2", "GPU-7f"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("launcher.gpus=2 trainer.devices=3", "seed1: trainer.devices=3, but the pool has 2 GPUs"),
        ("launcher.gpus=2 trainer.devices=[0,1]", "seed1: trainer.devices=[0, 1]: expected a number"),
        ("launcher.gpus=2 trainer.num_nodes=2", "seed1: trainer.num_nodes=2, but launcher=gpus runs jobs on one"),
        ("launcher.gpus=[1,1]", "launcher.gpus=['1', '1']: a GPU appears twice"),
        ("launcher.gpus=many", "launcher.gpus=many: expected auto, a number, or a list like [0,2]"),
        ("launcher.gpus=2 sweeper=optuna", "sweeper=optuna has nothing to search"),
        ("jobs=0", "jobs=0: expected a number, 1 or more, or null"),
        ("launcher=sloorm", "unknown hydra/launcher 'sloorm' (there are: basic, gpus, local"),
        ("run_dir=x", "'run_dir=x': a sweep gives every job a folder of its own, below sweep=NAME"),
    ],
)
def test_what_cannot_run_is_said_in_one_line_before_anything_runs(
    words: str, message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words if words.startswith("launcher=") else f"launcher=gpus {words}"
    assert train("-m", "seed=1" if "optuna" in words else "seed=1,2", *words.split()) == 2
    error = capsys.readouterr().err
    assert f"ktb-train: error: {message}" in error
    assert ran() == []


def test_the_words_of_a_sweep_need_m(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("seed=1", "jobs=2") == 2
    assert capsys.readouterr().err == "ktb-train: error: 'jobs=2' is for sweeps: add -m\n"


SLURM = {
    # What sbatch does with submitit's script, at once and on this machine; %j is for Slurm to fill in.
    "sbatch": """#!/bin/sh
number=$(($(ls {jobs}/*.sh | wc -l) + 1))
[ -e {refuse} ] && {{ echo "sbatch: error: invalid partition specified: gold" >&2; exit 1; }}
cp "$1" {jobs}/$number.sh; : > {jobs}/$number.running
export SLURM_JOB_ID=$number SLURM_NTASKS=1 SLURM_PROCID=0
( sh "$1"; rm {jobs}/$number.running ) > {jobs}/$number.out 2>&1 &
echo "Submitted batch job $number"
""",
    "srun": """#!/bin/sh
while [ "${{1#--}}" != "$1" ]; do case $1 in --output|--error) shift;; esac; shift; done
exec "$@"
""",
    "squeue": "#!/bin/sh\n[ -e {jobs}/away ] && {{ echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1; }}\n"
    "cd {jobs}; for f in *.running; do [ -e $f ] && echo ${{f%.running}} RUNNING; done; true\n",
}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Commands that behave as Slurm's do, for the glue around them; scripts/slurm_demo.py runs a real one."""
    jobs = tmp_path / "slurm"
    (tmp_path / "bin").mkdir()
    jobs.mkdir()
    for name, text in SLURM.items():
        file = tmp_path / "bin" / name
        file.write_text(text.format(jobs=jobs, refuse=tmp_path / "refuse"))
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(plugin().SlurmLauncher, "poll_s", 0.1)
    return jobs


@pytest.mark.slow
def test_slurm_jobs_are_submitted_watched_and_found_again(
    train: Train, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "-m",
        "seed=1,2,3",
        "launcher=slurm",
        "launcher.parameters.partition=gold",
        "sweep=s",
        "trainer.devices=1",
    )
    thread = when(lambda: began(1, 2, 3), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train(*command, plan={n: {"held": True, "fail": "no" if n == 2 else ""} for n in (1, 2, 3)}) == 130
    thread.join()
    assert "submitted jobs stay with Slurm" in capsys.readouterr().err
    script = (slurm / "1.sh").read_text()
    for line in ("partition=gold", "nodes=1", "ntasks-per-node=1", "gpus-per-node=1", "time=1440", "signal=USR2@120"):
        assert f"#SBATCH --{line}\n" in script
    when(lambda: not (slurm / "2.running").exists(), lambda: None).join()
    thread = when(lambda: (slurm / "4.sh").exists(), (slurm.parent / "released").touch)
    assert train(*command) == 0  # finds 1 and 3 at work, and submits 2, which has failed by itself meanwhile
    thread.join()
    found = records(Path("sweeps/s"))
    assert [(r["status"], r["attempts"]) for r in found.values()] == [("finished", 1), ("finished", 2), ("finished", 1)]


def test_what_sbatch_says_is_said(train: Train, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (slurm.parent / "refuse").touch()
    assert train("-m", "seed=1", "launcher=slurm", "sweep=s") == 2
    assert "seed1: sbatch refused it: " in (error := capsys.readouterr().err)
    assert "invalid partition specified: gold" in error
    assert train("-m", "seed=1", "launcher=slurm", "+launcher.parameters.partitoin=x", "sweep=s") == 2
    assert (
        "launcher.parameters: Unavailable parameter(s): ['partitoin'] (there are: account, " in capsys.readouterr().err
    )


def test_a_slurm_job_that_vanishes_has_failed(train: Train, slurm: Path) -> None:
    thread = when(lambda: began(1), lambda: (slurm / "1.running").unlink())
    assert train("-m", "seed=1", "launcher=slurm", "sweep=s", plan={1: {"seconds": 3}}) == 1
    thread.join()
    assert records(Path("sweeps/s"))["seed1"]["error"].startswith("Slurm job 1 ended without a word")


def test_a_controller_that_is_away_ends_no_job(train: Train, slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not when it goes while jobs are watched; and before, nothing is taken for dead and submitted twice."""
    submit, submitted = plugin().SlurmLauncher.start, []

    def then_away(self: Any, job: SweepJob) -> bool:
        done = bool(submit(self, job))
        submitted.append(job)
        (slurm / "away").touch()
        return done

    command = ("-m", "seed=1", "launcher=slurm", "sweep=s")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin().SlurmLauncher, "start", then_away)
        thread = when(lambda: bool(list(Path("sweeps").glob("s/seed1/result.json"))), (slurm / "away").unlink)
        assert train(*command, plan={1: {"seconds": 1}}) == 0
        thread.join()
    assert records(Path("sweeps/s"))["seed1"]["status"] == "finished"
    (slurm / "away").touch()
    assert train("-m", "seed=1,2", *command[2:]) == 2
    assert "squeue does not tell which jobs run (slurm_load_jobs error: Unable to contact)" in capsys.readouterr().err
    assert len(submitted) == 1
