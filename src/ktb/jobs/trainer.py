"""The Lightning Trainer of a job, and what it is kept from saying."""

from __future__ import annotations

import ctypes
import logging
import math
import warnings
from pathlib import Path

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.predictions import Predictions
from ktb.engine.callbacks.progress import Progress
from ktb.errors import ConfigError, first_line
from ktb.jobs.build import without
from ktb.models.setting_types import misfit, whole_numbers
from ktb.run_folder.names import PREDICTIONS


def build_trainer(cfg: DictConfig, callbacks: list[Callback], *plugins: CheckpointIO) -> L.Trainer:
    options = without(cfg.trainer, "sync_batchnorm")
    given = {str(k): v for k, v in options.items()}
    if wrong := misfit(L.Trainer, given):
        raise ConfigError(f"trainer.{wrong}")
    given |= whole_numbers(L.Trainer, given)
    quiet_lightning()
    if not torch.cuda.is_available():
        keep_freed_memory()
    if options.enable_progress_bar:
        callbacks = [*callbacks, Progress()]
    try:
        return L.Trainer(
            **given,
            callbacks=callbacks,
            plugins=[*plugins, *filter(None, [ranks.slurm()])],
            logger=False,
            enable_checkpointing=bool(plugins),
            default_root_dir=str(cfg.run_dir),
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        said = first_line(error, limit=None)
        if "gpu" in said.lower():
            said += f"; PyTorch finds {torch.cuda.device_count()} GPUs here: set trainer.devices, or use trainer=cpu"
        raise ConfigError(f"trainer: {said}") from None


def check_limits(cfg: DictConfig, trainer: L.Trainer, data: RGBXDataModule, *stages: str) -> None:
    """Refuse limits that leave no batch, and validations that would never come: Lightning does when it gets there.

    Args:
        cfg: of the job.
        trainer: made by it.
        data: what it works on.
        *stages: some of "train", "val", "test".

    Raises:
        ConfigError: saying which setting.
    """
    taken = {stage: _taken(trainer, data, stage) for stage in stages}
    interval = cfg.trainer.get("val_check_interval")
    if "train" not in stages or interval is None:
        return
    if interval == 0:
        raise ConfigError("trainer.val_check_interval=0: expected a number of batches, or a share of an epoch")
    of_an_epoch = cfg.trainer.check_val_every_n_epoch is not None and taken["val"] and taken["train"]
    if isinstance(interval, int) and of_an_epoch and interval > taken["train"]:
        raise ConfigError(
            f"trainer.val_check_interval={interval}: an epoch has {taken['train']} batches, so there would be no "
            "validation; expected so many at most, or trainer.check_val_every_n_epoch=null to count over epochs"
        )


def _taken(trainer: L.Trainer, data: RGBXDataModule, stage: str) -> int:
    """Batches that a stage takes of each process's; 0 where none is wanted, or too few samples are there at all.

    Raises:
        ConfigError: some are wanted, and the limit leaves none.
    """
    split = {"train": "train", "val": data.spec.selection_split, "test": data.spec.report_split}[stage]
    samples = len(data.dataset(split))
    if stage == "train":
        there = samples // trainer.world_size // data.batch_size
    else:
        there = math.ceil(max(samples // trainer.world_size, 1) / data.eval_batch_size)
    limit: int | float = getattr(trainer, f"limit_{stage}_batches")
    taken = min(limit, there) if isinstance(limit, int) else int(limit * there)
    if there and not taken and (limit or stage == "train"):
        of_both = stage != "test" and trainer.overfit_batches > 0  # type: ignore[attr-defined]
        name = "overfit_batches" if of_both else f"limit_{stage}_batches"
        raise ConfigError(
            f"trainer.{name}={limit}: leaves none of the {there} batches of {split}; expected a number of batches, or "
            f"a share of {math.ceil(100 / there) / 100:g} or more"
        )
    return taken


def unlabelled_predictions(run_dir: Path, data: RGBXDataModule) -> list[Callback]:
    """What writes the predictions for a report split without labels; nothing for one that can be scored."""
    if data.labelled(data.spec.report_split):
        return []
    return [Predictions(run_dir / PREDICTIONS, data.as_stored, data.spec.num_classes)]


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of handing it back to the system.

    By default every large tensor is mapped anew and its pages are zeroed by the kernel at first touch; on a CPU that
    is a third of the time of a training step.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc
        return
    libc.mallopt(-4, 0)  # M_MMAP_MAX: no allocation by mmap
    libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep the top of the heap


def quiet_lightning() -> None:
    """Its banner says nothing about this run, and these warnings are about what we do on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "Grad strides do not match bucket view strides",  # of a few 1x1 convolutions, some kilobytes
        ".*`self.log\\(.*sync_dist=True",  # what we log is the same on all ranks
        ".*your dataloader is not resumable",  # ours is told where to start (RGBXDataModule.start_at)
        ".*module\\(s\\) in eval mode at the start of training",  # statistics of frozen layers stay as they are
        ".*does not have many workers",  # dataset.num_workers is the user's decision
        ".*`srun` command is available",  # a cluster's login node may train without it
        "Error detected in ",  # of trainer.detect_anomaly, with a stack trace: FiniteCheck says it
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # lightning 2.6 on torch 2.15
    ):
        warnings.filterwarnings("ignore", message)
