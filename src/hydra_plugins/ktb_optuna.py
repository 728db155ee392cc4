"""A Hydra sweeper on current Optuna: the launchers of `hydra_plugins.ktb` run the trials, each a job like any other.

The objective is the best validation mIoU of a run. What a trial has reached is read from its metrics.csv while it
runs, so that a pruner can end it: neither the training nor its process knows of Optuna. The study is an SQLite file in
the sweep's folder; the same command goes on with it.

Hydra's own Optuna plugin stops at Optuna 2.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins._ktb_processes import ProcessLauncher
from ktb.config.build import instantiate
from ktb.errors import ConfigError
from ktb.run_folder.names import METRICS
from ktb.sweeps.job import SweepJob

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

STUDY = "optuna.db"


class OptunaSweeper(Sweeper):
    """Search the settings given as intervals, ranges and choices; those with one value are every trial's.

    Args:
        n_trials: how many in all; more in a later call continue the study.
        sampler, pruner: nodes that name a class of Optuna; pruner null: every trial runs to its end.
    """

    def __init__(self, n_trials: int, sampler: DictConfig, pruner: DictConfig | None) -> None:
        self.n_trials = n_trials
        self.sampler = sampler
        self.pruner = pruner
        self.trials: dict[SweepJob, list[Trial]] = {}
        self.pruned: set[SweepJob] = set()
        self._seen: dict[SweepJob, tuple[int, int]] = {}  # time and size of metrics.csv when it was last read

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if not isinstance(launcher, ProcessLauncher):
            raise ConfigError("sweeper=optuna works with launcher=local, gpus or slurm")
        if not isinstance(self.n_trials, int) or self.n_trials < 1:
            raise ConfigError(f"sweeper.n_trials={self.n_trials}: expected a number, 1 or more")
        self.pool = launcher

    def sweep(self, arguments: list[str]) -> None:
        try:
            import optuna
        except ImportError:
            raise ConfigError("sweeper=optuna needs Optuna: pip install 'ktb[optuna]'") from None
        from optuna.trial import Trial, TrialState

        given = OverridesParser.create().parse_overrides(arguments)
        space = {o.get_key_element(): distribution(o) for o in given if o.is_sweep_override()}
        if not space:
            raise ConfigError("sweeper=optuna has nothing to search: optim.lr='tag(log,interval(1e-5,1e-3))', loss=a,b")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder = self.pool.sweep.folder
        self.study = optuna.create_study(
            storage=f"sqlite:///{folder / STUDY}",
            study_name="sweep",
            direction="maximize",
            sampler=instantiate(self.sampler),
            pruner=instantiate(self.pruner) if self.pruner else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        if self.study.get_trials(deepcopy=False):
            self.study.sampler.reseed_rng()  # the same seed again would propose the same again

        def of(*states: TrialState) -> list[Any]:
            return self.study.get_trials(deepcopy=False, states=states)

        unfinished = of(TrialState.RUNNING)
        lasting = of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)
        known = [trial.params or trial.system_attrs.get("fixed_params") for trial in lasting]
        for trial in of(TrialState.FAIL):
            if trial.params not in known:
                self.study.enqueue_trial(trial.params)
                known.append(trial.params)
        left = max(0, self.n_trials - len(of(TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)))

        def jobs() -> Iterator[SweepJob]:
            for trial in unfinished:
                yield self._job(Trial(self.study, trial._trial_id), given)
            for _ in range(left):
                yield self._job(self.study.ask(space), given)

        self.pool.run(jobs(), len(unfinished) + left, ahead=False, watch=self._watch, done=self._done)
        self._say_best()

    def _job(self, trial: Trial, given: list[Override]) -> SweepJob:
        """The job of a trial; trials with the same values share one."""
        overrides = []
        for override in given:
            key = override.get_key_element()
            value = trial.params[key] if override.is_sweep_override() else override.get_value_element_as_str()
            overrides.append(f"{key}={value}")
        [job] = self.pool.sweep.add([(f"trial_{trial.number:03d}", overrides)], self.pool.alive())
        if not job.is_done():
            self.pool.check(job)
        self.trials.setdefault(job, []).append(trial)
        return job

    def _watch(self, job: SweepJob) -> str | None:
        """Report what a running job has reached; why it is to be stopped, if so."""
        file = job.folder / METRICS
        try:
            now = (file.stat().st_mtime_ns, file.stat().st_size)
            if self.pruner is None or self._seen.get(job) == now:
                return None
            self._seen[job] = now
            reached = validation_curve(file)
        except OSError:  # not there yet
            return None
        trial = self.trials[job][-1]
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for epoch in reached.keys() - known.keys():
            trial.report(reached[epoch], epoch)
        if not reached or not trial.should_prune():
            return None
        self.pruned.add(job)
        epoch, miou = list(reached.items())[-1]
        return f"pruned after epoch {epoch + 1} with a validation mIoU of {100 * miou:.2f} %"

    def _done(self, job: SweepJob) -> None:
        from optuna.trial import TrialState

        if job.status == "interrupted" and job not in self.pruned:
            return  # stays a running trial, for the next call
        result = job.result
        miou = result.get("best_val_miou") if job.status == "finished" else None
        # With the same values its loss would become NaN again: they are bad ones, which the sampler has to know.
        bad = job in self.pruned or (job.status == "failed" and result.get("cause") == "not finite")
        for trial in self.trials.pop(job):
            if miou is not None:
                self.study.tell(trial, miou)
            else:
                self.study.tell(trial, state=TrialState.PRUNED if bad else TrialState.FAIL)
        if job.status == "finished" and miou is None:
            raise ConfigError(f"{job.folder} has no validation mIoU to search by; trainer.limit_val_batches is 0?")

    def _say_best(self) -> None:
        from optuna.trial import TrialState

        if self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            best = self.study.best_trial
            values = " ".join(f"{key}={value}" for key, value in best.params.items())
            print(f"best validation mIoU: {100 * (best.value or 0.0):.2f} % with {values}")


def distribution(override: Override) -> BaseDistribution:
    """Optuna's form of a,b | choice(a,b) | range(1,9) | interval(0.1,0.9) | tag(log,interval(1e-5,1e-3))."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, ChoiceSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    if isinstance(value, RangeSweep) and value.start is not None and value.stop is not None:
        whole = all(isinstance(number, int) for number in (value.start, value.stop, value.step))
        # Hydra's ranges end before their stop, and Optuna's at the last number that is one.
        last = value.start + (math.ceil((value.stop - value.start) / value.step) - 1) * value.step
        if whole:
            return IntDistribution(int(value.start), int(last), step=int(value.step))
        return FloatDistribution(float(value.start), float(last), step=float(value.step))
    if isinstance(value, IntervalSweep) and value.start is not None and value.end is not None:
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    raise ConfigError(f"'{override.input_line}': expected a list, choice(...), range(...) or interval(...)")


def validation_curve(file: Path) -> dict[int, float]:
    """Epoch → val/miou of a run's metrics.csv, where there was something to score."""
    with file.open(newline="", encoding="utf-8") as lines:
        scored = [row for row in csv.DictReader(lines) if row.get("val/miou")]
    return {int(row["epoch"]): miou for row in scored if math.isfinite(miou := float(row["val/miou"]))}
