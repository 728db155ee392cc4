"""Checkpoints while training: when they are written, how they survive a kill, what a resumed run needs from them.

Between two steps, before and after every validation: at no other moment is the state of Lightning's loops one that it
continues from exactly. The loggers are flushed first, so that a checkpoint never knows of a row that is not on disk.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ktb.engine.callbacks.metrics_file import MetricsFile
from ktb.engine.checkpoint_files import newest_first
from ktb.engine.epochs import EpochPlan
from ktb.errors import WriteError
from ktb.run_folder.names import BEST, LAST

_SAVE, _STOP, _REQUEUE = 1, 2, 3
"""What the processes agree on between two steps; the largest number wins."""

_SIGNALS = {
    signal.Signals[name]: wanted
    for name, wanted in {"SIGTERM": _STOP, "SIGUSR1": _REQUEUE, "SIGUSR2": _STOP}.items()
    if os.name == "posix" and name in signal.Signals.__members__
}
"""What a signal asks for. On Windows SIGTERM never arrives, and there are no others."""


class Saving(Checkpoint):
    """`last.ckpt` before and after every validation and every so many steps or minutes; `best.ckpt` by `val/miou`.

    SIGTERM, SIGUSR2: a checkpoint after the step that is running, then the training ends with `SIGTERMException`;
    during validation, before which one has been written, at once. SIGUSR1: the same, and a Slurm job asks to be queued
    again.

    Args:
        folder: where they go.
        every_steps, every_minutes: of training; None: only around validation, or at the end of an epoch without one.
    """

    def __init__(self, folder: Path, *, every_steps: int | None = None, every_minutes: float | None = None) -> None:
        self.folder = folder
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.best_score = -math.inf
        """Largest validation mIoU so far."""
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._request = 0
        self._resume: dict[str, Any] = {}
        self._moment = ""

    @property
    def best_path(self) -> Path | None:
        """best.ckpt, if there is one."""
        file = self.folder / BEST
        return file if math.isfinite(self.best_score) and file.is_file() else None

    @property
    def newest(self) -> Path | None:
        """The last checkpoint that training can continue from, if there is one."""
        return next(iter(newest_first(self.folder)), None)

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep under "Saving": the best score, and where in the epoch the training stands."""
        return {"best_score": self.best_score, **self._resume}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score of the checkpoint that training continues from."""
        if (self.folder / BEST).is_file():  # otherwise the next one is the best there is
            self.best_score = state_dict["best_score"]

    # ------------------------------------------------------------------------------------------------------ when

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        self._listen(trainer)
        if trainer.is_global_zero:
            for file in self.folder.glob("*.partial"):  # of a process that was killed
                file.unlink()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 or batch_idx % trainer.accumulate_grad_batches:
            return  # the last epoch's end has been saved; gradients of half a step would be lost
        wanted = self._request
        minutes = (time.monotonic() - self._saved_at) / 60
        if self.every_minutes is not None and minutes >= self.every_minutes:
            wanted = max(wanted, _SAVE)
        if trainer.world_size > 1:  # clocks and signals differ between ranks, and saving takes all of them
            agreed = torch.tensor(wanted, device=pl_module.device)
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
            wanted = int(agreed)
        if wanted or (self.every_steps and trainer.global_step % self.every_steps == 0):
            self._save_step(trainer, "between steps")
        if wanted >= _STOP:
            self._stop(trainer, requeue=wanted == _REQUEUE)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_step(trainer, "before validation")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics["val/miou"])
        is_best = score > self.best_score
        if is_best:
            self.best_score = score
        self._save(trainer, "after validation", is_best=is_best)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        whole = trainer.fit_loop.epoch_loop.batch_progress.current.completed >= trainer.num_training_batches
        self._save_step(trainer, "after epoch" if whole else "stopped")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for file in newest_first(self.folder)[1:]:
                file.unlink()

    def on_validation_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop_if_asked(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen(trainer)

    def on_test_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop_if_asked(trainer)

    # ------------------------------------------------------------------------------------------------------ what

    def _save_step(self, trainer: L.Trainer, moment: str) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer, moment)

    def _save(self, trainer: L.Trainer, moment: str, *, is_best: bool = False) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        for logger in trainer.loggers:
            logger.save()
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        over = moment == "after epoch"
        self._resume = {
            "epoch": trainer.current_epoch + over,
            "batch": 0 if over else progress.completed,
            "rows": sum(logger.rows for logger in trainer.loggers if isinstance(logger, MetricsFile)),
            "plan": EpochPlan.of(trainer).to_dict(),
        }
        self._moment = moment
        failure: WriteError | None = None
        try:
            trainer.save_checkpoint(
                self.folder / LAST, storage_options={"best": self.folder / BEST} if is_best else None
            )
        except WriteError as error:  # on rank 0 alone; the others wait
            failure = error
            trainer.strategy.barrier()
        if trainer.world_size > 1:
            failed = torch.tensor(int(failure is not None), device=trainer.strategy.root_device)
            torch.distributed.all_reduce(failed)
            if failed and failure is None:
                raise SystemExit(2)  # rank 0 says why
        if failure is not None:
            raise failure
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put Lightning's loops into a state from which they go on with the right thing, exactly once."""
        loops = checkpoint["loops"]["fit_loop"]
        validation = loops["epoch_loop.val_loop.batch_progress"]
        for part in ("total", "current"):
            validation[part] = dict.fromkeys(validation[part], 0)
        if self._moment == "before validation":  # its first batch has begun: it is run again, from the start
            validation["total"].update(ready=1, started=1)
        off_schedule = self._moment == "after validation" and not _validation_is_due(trainer)
        if self._moment in ("between steps", "stopped") or off_schedule:  # as if the last step were just ending
            batches = loops["epoch_loop.batch_progress"]
            for part in (batches["total"], batches["current"]):
                done = part["processed"]
                part.update(ready=done, started=done, completed=done - 1)
            batches["is_last_batch"] = False
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= not off_schedule
        if self._moment == "stopped":  # by max_steps or max_time: Lightning calls the epoch done
            for part in (loops["epoch_progress"]["total"], loops["epoch_progress"]["current"]):
                part["processed"] = part["completed"] = part["started"] - 1

    # ---------------------------------------------------------------------------------------------------- signals

    def _listen(self, trainer: L.Trainer) -> None:
        """Lightning's own handler stops at once in validation only by luck, and broadcasts from within a handler."""

        def handle(number: int, _: FrameType | None) -> None:
            self._request = max(self._request, _SIGNALS[signal.Signals(number)])
            if trainer.strategy.launcher is not None:  # the other ranks, where this process started them
                trainer.strategy.launcher.kill(number)

        for number in _SIGNALS:
            signal.signal(number, handle)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        if self._request:
            self._stop(trainer, requeue=self._request == _REQUEUE)

    def _stop(self, trainer: L.Trainer, *, requeue: bool) -> None:
        job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job_id = "_".join(job) if all(job) else os.environ.get("SLURM_JOB_ID")  # type: ignore[arg-type]
        if requeue and job_id and trainer.is_global_zero:
            done = subprocess.run(
                ["scontrol", "requeue", job_id], capture_output=True, encoding="utf-8", errors="replace"
            )
            what = f"could not be queued again ({done.stderr.strip()})" if done.returncode else "is queued again"
            print(f"Slurm job {job_id} {what}", file=sys.stderr, flush=True)
        raise SIGTERMException


def _validation_is_due(trainer: L.Trainer) -> bool:
    """Whether validation follows this step anyway, not only because the training is about to stop.

    Only Lightning's loop itself knows, in names that are not public; a test says so when they go.
    """
    loop, stops = trainer.fit_loop, trainer.should_stop
    assert loop._data_fetcher is not None
    trainer.should_stop = False
    due = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    trainer.should_stop = stops
    return due
