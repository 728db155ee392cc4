"""Sweeps: what runs at the same time, what a second call does, what signals do. The jobs are a small script in place of
ktb-train; everything around it is the real thing."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from ktb.cli import train as cli
from ktb.config.compose import compose, conf_dir
from ktb.config.mistakes import mistake
from ktb.errors import ConfigError
from ktb.sweeps.folder import SweepFolder, job_name
from ktb.sweeps.job import SweepJob

FAKE = """\
import json, math, os, pathlib, signal, sys, time

given = {key: value.strip("'") for key, _, value in (text.partition("=") for text in sys.argv[1:])}
folder = pathlib.Path(given["run_dir"])
plan = json.loads((pathlib.Path(__file__).parent / "plan.json").read_text())
job = plan.get(given.get("seed", "0"), {})
begun = time.time()

def note(**more):
    line = {"seed": int(given.get("seed", 0)), "begun": begun, "ended": time.time(), "argv": sys.argv[1:],
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "env": [k for k in ("LOCAL_RANK", "KTB_DECIDED", "SLURM_NTASKS", "WORLD_SIZE") if k in os.environ]}
    with open(pathlib.Path(__file__).parent / "ran.jsonl", "a") as file:
        file.write(json.dumps({**line, **more}) + "\\n")

def stop(*_):
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    note()
    print("ktb-train: terminated; continue with: ktb-train ...", file=sys.stderr)
    sys.exit(143)

signal.signal(signal.SIGTERM, signal.SIG_IGN if job.get("deaf") else stop)
(folder / "began").touch()
if job.get("die"):
    os.kill(os.getpid(), signal.SIGKILL)
if job.get("fail"):
    note()
    sys.exit("ktb-train: error: " + job["fail"])
if job.get("diverges") and float(given["optim.lr"]) > 1e-3:
    note()
    failure = {"status": "failed", "cause": "not finite", "error": "step 2: loss is nan"}
    (folder / "result.json").write_text(json.dumps(failure))
    print("ktb-train: error: step 2: loss is nan", file=sys.stderr)
    sys.exit(2)
if job.get("bug"):
    note()
    raise ZeroDivisionError("a bug")
until = begun + job.get("seconds", 0)
while time.time() < until:
    time.sleep(0.01)
best = 0.5
if "optim.lr" in given and "epochs" in job:  # the closer to 1e-3, the better, from the first epoch on
    best = 1 - abs(math.log10(float(given["optim.lr"])) + 3) / 4
    rows = ["epoch,val/miou"]
    for epoch in range(job["epochs"]):
        rows.append(f"{epoch},{best}")
        (folder / "metrics.csv").write_text("\\n".join(rows) + "\\n")
        time.sleep(job.get("pause", 0))
scores = {"best_val_miou": best, "metrics": {"miou": best}}
(folder / "result.json").write_text(json.dumps({"status": "finished", **scores}))
note()
"""

Train = Callable[..., int | str | None]


def plugin() -> Any:
    """The module as Hydra has loaded it, which is not always the one that an import statement would give."""
    Plugins.instance()
    return sys.modules["hydra_plugins.ktb"]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Train:
    """ktb-train in this process, with the script in place of its jobs; plan: seed → what its job does."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ktb.sweeps.processes.program", lambda command: [sys.executable, str(tmp_path / "fake.py")])
    monkeypatch.setattr(plugin().ProcessLauncher, "poll_s", 0.02)

    def command(*argv: str, plan: dict[int, dict[str, Any]] | None = None) -> int | str | None:
        (tmp_path / "plan.json").write_text(json.dumps(plan or {}))
        (tmp_path / "ran.jsonl").unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", ["ktb-train", *argv])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        try:
            cli.train()
        except SystemExit as stop:
            return stop.code
        return 0

    return command


def ran() -> list[dict[str, Any]]:
    file = Path("ran.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.parent.name: json.loads(file.read_text()) for file in sorted(folder.glob("*/job.json"))}


def only_sweep() -> Path:
    [folder] = Path("sweeps").iterdir()
    return folder


def times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("*/**/*") if p.is_file()}


# ------------------------------------------------------------------------------------------------ finishing


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


def test_a_job_knows_nothing_of_ranks_around_it(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "KTB_DECIDED", "SLURM_NTASKS", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert train("-m", "seed=1", "sweep=s") == 0
    assert ran()[0]["env"] == []


def test_another_launcher_gets_processes_of_their_own_too(train: Train) -> None:
    command = ("-m", "seed=1,2", "launcher=basic", "sweep=s")
    assert train(*command, plan={1: {"fail": "no"}}) == 0  # hydra's own: what failed is in the record
    assert [record["status"] for record in records(Path("sweeps/s")).values()] == ["failed", "finished"]
    assert train(*command) == 0
    assert [line["seed"] for line in ran()] == [1]


# ------------------------------------------------------------------------------------------------ the pool


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


# ------------------------------------------------------------------------------------------------ Optuna

SEARCH = ("-m", "sweeper=optuna", "optim.lr=tag(log,interval(1e-5,1e-1))", "loss=ce,ohem", "sweep=s")


def trials() -> list[Any]:
    return optuna.load_study(study_name="sweep", storage="sqlite:///sweeps/s/optuna.db").trials


def test_a_search_finds_what_is_best_and_goes_on(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    plan: dict[int, dict[str, Any]] = {0: {"epochs": 1}}
    command = (*SEARCH, "sweeper.pruner=null", "jobs=2")
    assert train(*command, "sweeper.n_trials=8", plan=plan) == 0
    assert len(trials()) == 8
    for trial in trials():
        assert trial.value == pytest.approx(1 - abs(math.log10(trial.params["optim.lr"]) + 3) / 4)
        assert 1e-5 <= trial.params["optim.lr"] <= 1e-1
    best = max(trials(), key=lambda trial: trial.value)
    assert f"{100 * best.value:.2f} % with optim.lr={best.params['optim.lr']} loss=" in capsys.readouterr().out
    assert train(*command, "sweeper.n_trials=9", plan=plan) == 0
    assert len(ran()) == 1
    assert train(*command, "sweeper.n_trials=9", plan=plan) == 0
    assert (len(ran()), len(trials())) == (0, 9)


@pytest.mark.parametrize(
    ("text", "largest"),
    [("range(1,9)", 8), ("range(0,10,4)", 8), ("range(1,10,3)", 7), ("range(0.0,1.0,0.4)", 0.8)],
)
def test_ranges_end_where_those_of_hydra_do(text: str, largest: float) -> None:
    plugin()
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.ktb_optuna import distribution

    override = OverridesParser.create().parse_override(f"optim.warmup_epochs={text}")
    assert max(float(value) for value in override.sweep_string_iterator()) == pytest.approx(largest)
    assert vars(distribution(override))["high"] == pytest.approx(largest)


def test_a_bad_trial_is_pruned_while_it_runs(train: Train) -> None:
    plan: dict[int, dict[str, Any]] = {0: {"epochs": 20, "pause": 0.1}}
    search = (*SEARCH, "sweeper.n_trials=6", "sweeper.pruner.n_startup_trials=2", "sweeper.pruner.n_warmup_steps=1")
    assert train(*search, "sweeper.sampler._target_=optuna.samplers.RandomSampler", plan=plan) == 0
    pruned = [trial for trial in trials() if trial.state.name == "PRUNED"]
    assert pruned
    for trial in pruned:
        earlier = [t.params["optim.lr"] for t in trials()[: trial.number]]
        distance = [abs(math.log10(lr) + 3) for lr in earlier]
        assert abs(math.log10(trial.params["optim.lr"]) + 3) > statistics.median(distance) - 1e-9
        record = records(Path("sweeps/s"))[f"trial_{trial.number:03d}"]
        assert record["error"].startswith("pruned after epoch ")
        assert 1 <= len(trial.intermediate_values) < 20


def test_a_trial_whose_loss_is_nan_is_pruned_and_the_search_goes_on(train: Train) -> None:
    """As a bad one that is not tried again, while a job of the sweep it is one that failed, with its reason."""
    random = ("sweeper.sampler._target_=optuna.samplers.RandomSampler", "sweeper.sampler.seed=1", "sweeper.n_trials=5")
    plan = {0: {"diverges": True, "epochs": 1}}
    assert train(*SEARCH, *random, plan=plan) == 1
    found = [(trial.params["optim.lr"] > 1e-3, trial.state.name) for trial in trials()]
    assert set(found) == {(True, "PRUNED"), (False, "COMPLETE")}
    failed = [record for record in records(Path("sweeps/s")).values() if record["status"] == "failed"]
    assert len(failed) == [name for _, name in found].count("PRUNED")
    assert {record["error"] for record in failed} == {"step 2: loss is nan"}
    assert train(*SEARCH, *random, plan=plan) == 1
    assert len(trials()) == 5
    assert len(ran()) == 0


def test_a_failed_trial_is_repeated_and_an_interrupted_one_goes_on(train: Train) -> None:
    search = (*SEARCH, "sweeper.n_trials=2", "sweeper.pruner=null")
    assert train(*search, plan={0: {"fail": "disk full"}}) == 1
    tried = [trial.params for trial in trials()]
    Path("sweeps/s/trial_000/began").unlink()  # of the first attempt; the signal is for the second
    thread = when(lambda: Path("sweeps/s/trial_000/began").exists(), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train(*search, plan={0: {"seconds": 60}}) == 130
    thread.join()
    assert train(*search, plan={0: {"epochs": 1}}) == 0
    assert [line["argv"][-2:][0] for line in ran()] == ["ckpt_path=auto"] * 2
    assert [trial.params for trial in trials() if trial.state.name == "COMPLETE"] == tried
    assert {record["status"] for record in records(Path("sweeps/s")).values()} == {"finished"}


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


# ------------------------------------------------------------------------------------------------ signals and the lock


def when(condition: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def began(*seeds: int) -> bool:
    return all(list(Path("sweeps").glob(f"*/seed{seed}/began")) for seed in seeds)


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


# ------------------------------------------------------------------------------------------------ Slurm

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
    assert train(*command, plan={n: {"seconds": 6, "fail": "no" if n == 2 else ""} for n in (1, 2, 3)}) == 130
    thread.join()
    assert "submitted jobs stay with Slurm" in capsys.readouterr().err
    script = (slurm / "1.sh").read_text()
    for line in ("partition=gold", "nodes=1", "ntasks-per-node=1", "gpus-per-node=1", "time=1440", "signal=USR2@120"):
        assert f"#SBATCH --{line}\n" in script
    when(lambda: not (slurm / "2.running").exists(), lambda: None).join()
    assert train(*command) == 0  # finds 1 and 3 at work, and submits 2, which has failed by itself meanwhile
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


# ------------------------------------------------------------------------------------------------ the real jobs


@pytest.mark.slow
def test_real_jobs(tmp_path: Path) -> None:
    """One killed, one made to fail, one left alone; the same command repairs the two and leaves the third alone."""
    command = [
        str(Path(sys.executable).with_name("ktb-train")), "-m", "seed=1,2,3", "trainer=debug",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "dataset.size=[32,64]", "dataset.train=4", "dataset.val=2",
        "dataset.test=2",
        "dataset.batch_size=2", "jobs=3", "sweep=s",
    ]  # fmt: skip
    folder = tmp_path / "sweeps" / "s"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LOCAL_RANK": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
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
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "3 jobs: 3 finished" in done.stdout
    assert {name: t for name, t in times(folder).items() if name.startswith("seed1")} == before
    assert {name: r["attempts"] for name, r in records(folder).items()} == {"seed1": 1, "seed2": 2, "seed3": 2}
    assert all((folder / name / "checkpoints" / "last.ckpt").exists() for name in ("seed1", "seed2", "seed3"))
