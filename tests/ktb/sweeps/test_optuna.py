"""A search: which trials there are, which end early, and that the same command goes on with it."""

from __future__ import annotations

import math
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.ktb.sweeps.fake_jobs import Train, plugin, ran, records, when

SEARCH = ("-m", "sweeper=optuna", "optim.lr=tag(log,interval(1e-5,1e-1))", "loss=ce,ohem", "sweep=s")


def trials() -> list[Any]:
    return optuna.load_study(study_name="sweep", storage="sqlite:///sweeps/s/optuna.db").trials


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
