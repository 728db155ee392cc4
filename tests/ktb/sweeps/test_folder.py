"""A sweep's folder: what a second call does, what signals do, and that one process at a time runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ktb.config.compose import compose, conf_dir
from ktb.config.mistakes import mistake
from ktb.errors import ConfigError
from ktb.sweeps.folder import SweepFolder, job_name
from tests.ktb.commands import run, start_process
from tests.ktb.sweeps.fake_jobs import Train, began, only_sweep, ran, records, times, when


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failure_and_the_same_command_repairs_it(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "seed=1,2,3,4", "loss=ce,ohem", "optim.lr=0.5", "jobs=3")
    plan: dict[int, dict[str, Any]] = {2: {"fail": "train.txt: no such file"}, 3: {"die": True}, 4: {"bug": True}}
    assert train(*command, plan=plan) == 1
    folder = only_sweep()
    output, error = capsys.readouterr()
    assert all(f"seed{n}_ohem" in output for n in (1, 2, 3, 4))  # the table
    log = folder.absolute() / "seed2_ce" / "log.txt"
    assert f"ktb-train: seed2_ce: failed: train.txt: no such file ({log})\n" in error
    assert error.splitlines()[-1] == (
        "ktb-train: 2 finished, 6 failed; the same command again goes on: "
        "ktb-train -m seed=1,2,3,4 loss=ce,ohem optim.lr=0.5 jobs=3"
    )
    found = records(folder)
    assert [found[f"seed{n}_ce"]["status"] for n in (1, 2, 3, 4)] == ["finished", "failed", "failed", "failed"]
    assert found["seed3_ohem"]["exit_code"] == -9
    assert found["seed3_ohem"]["error"] == "killed by SIGKILL, perhaps for want of memory"
    assert found["seed4_ohem"]["error"] == "ZeroDivisionError: a bug"
    assert found["seed1_ce"]["overrides"] == ["seed=1", "loss=ce", "optim.lr=0.5"]

    before = {name: t for name, t in times(folder).items() if name.startswith("seed1")}
    assert train(*command) == 0
    assert {name: t for name, t in times(folder).items() if name.startswith("seed1")} == before
    assert sorted(line["seed"] for line in ran()) == [2, 2, 3, 3, 4, 4]
    assert {r["status"] for r in records(folder).values()} == {"finished"}
    assert {name: r["attempts"] for name, r in records(folder).items() if "ce" in name} == {
        "seed1_ce": 1, "seed2_ce": 2, "seed3_ce": 2, "seed4_ce": 2,
    }  # fmt: skip
    before = times(folder)
    assert train(*command) == 0
    assert (ran(), times(folder)) == ([], before)


@pytest.mark.slow
def test_the_folder_follows_from_the_overrides(train: Train) -> None:
    assert train("-m", "seed=1,2", "optim.lr=0.1") == 0
    assert train("-m", "optim.lr=0.1", "seed=1,2", "jobs=2") == 0  # order and number at a time do not matter
    assert ran() == []
    assert train("-m", "seed=1,2", "optim.lr=0.2") == 0
    assert len(list(Path("sweeps").glob("seed_*"))) == 2
    assert train("-m", "seed=1,2", "sweep=mine") == train("-m", "seed=1,2,3", "sweep=mine") == 0
    assert [line["seed"] for line in ran()] == [3]  # a longer list: what is done stays done
    content = json.loads(Path("sweeps/mine/sweep.json").read_text())
    assert content["command"] == "ktb-train -m seed=1,2,3 sweep=mine"
    assert content["jobs"] == {f"seed{n}": [f"seed={n}"] for n in (1, 2, 3)}
    assert train("-m", "seed=1", "optim.lr=0.3", "sweep=mine") == 0  # another job that would have the same name
    assert train("-m", "seed=7", "hydra.sweep.dir=else/where") == 0
    assert Path("else/where/seed7/result.json").exists()


def test_an_interrupted_job_goes_on_from_its_checkpoint(train: Train) -> None:
    command = ("-m", "seed=1", "sweep=s", "ckpt_path=start.ckpt")
    assert train(*command) == 0
    assert ran()[0]["argv"][1] == "ckpt_path=start.ckpt"
    folder = Path("sweeps/s/seed1")
    (folder / "result.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last-1.ckpt").touch()
    record = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps(record | {"status": "running"}))  # its sweep was killed
    assert train(*command) == 0
    assert ran()[0]["argv"] == ["seed=1", "ckpt_path=auto", f"run_dir={folder.absolute()}"]
    assert train("-m", "seed=1", "sweep=s", "ckpt_path=start.ckpt", "overwrite=true") == 0
    assert ran()[0]["argv"][1:-1] == ["ckpt_path=start.ckpt", "overwrite=True"]


def test_a_job_that_finished_while_its_sweep_was_killed_is_not_run_again(train: Train) -> None:
    assert train("-m", "seed=1", "sweep=s") == 0
    file = Path("sweeps/s/seed1/job.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "running"}))
    assert train("-m", "seed=1", "sweep=s") == 0
    assert ran() == []
    assert records(Path("sweeps/s"))["seed1"]["status"] == "finished"


def test_a_job_that_is_named_twice_is_run_once(train: Train) -> None:
    assert train("-m", "seed=1,1,2", "sweep=s", "jobs=3") == 0
    assert sorted(line["seed"] for line in ran()) == [1, 2]
    assert {name: r["attempts"] for name, r in records(Path("sweeps/s")).items()} == {"seed1": 1, "seed2": 1}


def test_a_job_knows_nothing_of_ranks_around_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "KTB_DECIDED", "SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert train("-m", "seed=1", "sweep=s") == 0
    assert ran()[0]["env"] == []


@pytest.mark.slow
def test_another_launcher_gets_processes_of_their_own_too(train: Train) -> None:
    command = ("-m", "seed=1,2", "launcher=basic", "sweep=s")
    assert train(*command, plan={1: {"fail": "no"}}) == 0  # hydra's own: what failed is in the record
    assert [record["status"] for record in records(Path("sweeps/s")).values()] == ["failed", "finished"]
    assert train(*command) == 0
    assert [line["seed"] for line in ran()] == [1]


def test_the_command_of_a_wandb_agent_is_one_of_ours() -> None:
    """As its agent writes it, for values of every kind that the shipped sweep has."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    given = yaml.safe_load((conf_dir() / "sweep" / "wandb.yaml").read_text(encoding="utf-8"))
    drawn = {key: p["values"][-1] if "values" in p else p["min"] for key, p in given["parameters"].items()}
    args = create_sweep_command_args({"args": {key: {"value": value} for key, value in drawn.items()}})
    env, program, place, *fixed = given["command"]
    assert (env, program, place) == ("${env}", "ktb-train", "${args_no_hyphens}")
    assert mistake("train", [*args["args_no_hyphens"], *fixed]) is None
    cfg = compose("train", [*args["args_no_hyphens"], *fixed])
    assert cfg.loss.name == drawn.pop("loss")
    assert {key: OmegaConf.select(cfg, key) for key in drawn} == drawn


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_jobs_and_the_same_command_goes_on(
    sign: int, code: int, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "seed=1,2,3", "jobs=2", "sweep=s")
    thread = when(lambda: began(1, 2), lambda: os.kill(os.getpid(), sign))
    assert train(*command, plan={1: {"seconds": 60}, 2: {"seconds": 60}}) == code
    thread.join()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ktb-train: interrupted; 2 interrupted, 1 pending; "
        "the same command again goes on: ktb-train -m seed=1,2,3 jobs=2 sweep=s"
    )
    assert train(*command) == 0
    assert {line["seed"]: "ckpt_path=auto" in line["argv"] for line in ran()} == {1: True, 2: True, 3: True}


def test_a_second_ctrl_c_kills(train: Train) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.7)
        os.kill(os.getpid(), signal.SIGINT)

    thread = when(lambda: began(1), twice)
    start = time.monotonic()
    assert train("-m", "seed=1,2", "sweep=s", plan={1: {"seconds": 60, "deaf": True}}) == 130
    thread.join()
    assert time.monotonic() - start < 30
    assert records(Path("sweeps/s"))["seed1"]["status"] == "interrupted"


def test_one_process_per_sweep_even_after_kill_9(tmp_path: Path) -> None:
    """A job inherits the lock: it is held until the last job of a killed sweep has ended, and free then."""
    holder = (
        "import subprocess, sys; from pathlib import Path; from ktb.sweeps import folder, processes\n"
        f"s = folder.SweepFolder(Path({str(tmp_path)!r}))\n"
        "with s.lock():\n"
        "    p = processes.start(s.add([('a', ['seed=1'])])[0], ['sleep', '60'], {'PATH': '/bin:/usr/bin'})\n"
        "    print(p.pid, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip

    def refusal() -> str | None:
        try:
            with SweepFolder(tmp_path).lock():
                return None
        except ConfigError as error:
            return str(error).partition("running already (")[2].partition(")")[0]

    assert process.stdout is not None
    job = int(process.stdout.readline())
    try:
        with (
            pytest.raises(ConfigError, match=f"running already \\(process {process.pid} runs it\\)"),
            SweepFolder(tmp_path).lock(),
        ):
            pass
        process.kill()
        process.communicate()
        with (
            pytest.raises(ConfigError, match="jobs of an invocation that was killed still run"),
            SweepFolder(tmp_path).lock(),
        ):
            pass
    finally:
        os.kill(job, signal.SIGKILL)
        process.kill()
    deadline = time.monotonic() + 10
    while refusal() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert refusal() is None


def test_names_are_safe_in_shells_and_overrides() -> None:
    given = ["dataset=nyu", "modality.streams=[rgb,depth]", "+backbone.x='a b/c'", "optim.lr=1e-4", "seed=3"]
    swept = [text.lstrip("+").partition("=")[0] for text in given[:-1]]
    assert job_name(given, swept, ["dataset"]) == "nyu_streams-rgb-depth_x-a-b-c_lr1e-4"
    assert len(job_name([f"k{n}=value" for n in range(50)], [f"k{n}" for n in range(50)], [])) == 100


@pytest.mark.slow
def test_real_jobs(tmp_path: Path) -> None:
    """One killed, one made to fail, one left alone; the same command repairs the two and leaves the third alone."""
    command = [
        "ktb-train", "-m", "seed=1,2,3", "trainer=debug",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "dataset.size=[32,64]", "dataset.train=4", "dataset.val=2",
        "dataset.test=2",
        "dataset.batch_size=2", "jobs=3", "sweep=s",
    ]  # fmt: skip
    folder = tmp_path / "sweeps" / "s"
    with start_process(*command, cwd=tmp_path, LOCAL_RANK="1") as process:
        deadline = time.monotonic() + 120
        while not (folder / "seed3" / "log.txt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (folder / "seed2" / "panels.png").mkdir()  # where a file is to go
        killed: list[int] = []
        while not killed:  # just after its start a process still has the command line of the one that started it
            assert time.monotonic() < deadline
            for child in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if child.read_bytes().endswith(f"run_dir={folder / 'seed3'}\0".encode()):
                        os.kill(int(child.parent.name), signal.SIGKILL)
                        killed.append(int(child.parent.name))
        _, error = process.communicate(timeout=200)
    assert process.returncode == 1, error
    assert {name: r["status"] for name, r in records(folder).items()} == {
        "seed1": "finished", "seed2": "failed", "seed3": "failed",
    }, error  # fmt: skip
    (folder / "seed2" / "panels.png").rmdir()
    before = {name: t for name, t in times(folder).items() if name.startswith("seed1")}
    done = run(*command, cwd=tmp_path, OMP_NUM_THREADS="1", LOCAL_RANK="1")
    assert done.returncode == 0, done.stderr
    assert "3 jobs: 3 finished" in done.stdout
    assert {name: t for name, t in times(folder).items() if name.startswith("seed1")} == before
    assert {name: r["attempts"] for name, r in records(folder).items()} == {"seed1": 1, "seed2": 2, "seed3": 2}
    assert all((folder / name / "checkpoints" / "last.ckpt").exists() for name in ("seed1", "seed2", "seed3"))
