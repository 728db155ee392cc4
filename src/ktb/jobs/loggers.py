"""The loggers of a run, and its run in wandb."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from ktb.config.build import instantiate
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.metrics_file import MetricsFile
from ktb.jobs import resume
from ktb.jobs.build import without
from ktb.run_folder.files import write_text
from ktb.run_folder.names import SWEEP, WANDB_ID


def build_loggers(cfg: DictConfig, run_dir: Path, point: resume.Checkpoint | None) -> list[Logger]:
    loggers: list[Logger] = []
    for node in (cfg.logger or {}).values():  # logger=null: none
        node = without(node)
        if node["_target_"].endswith(".WandbLogger"):
            node = _wandb_options(node, run_dir, cfg.dataset.name)
        loggers.append(instantiate(node))
        if isinstance(loggers[-1], WandbLogger):
            loggers[-1].log_hyperparams(cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
            loggers[-1].experiment.define_metric("val/miou", summary="max")  # what the list of runs shows
        if point is not None and isinstance(loggers[-1], MetricsFile):
            loggers[-1].continue_from(point.position["rows"])
    return loggers


def _wandb_options(node: DictConfig, run_dir: Path, dataset: str) -> DictConfig:
    """One run folder, one wandb run: its id lies in the folder, so that a resumed run continues it.

    Runs are grouped by sweep, or by data set outside of one, unless the user names a group.
    """
    import wandb

    if node.mode == "online" and not wandb.login(prompt=False, verify=False):
        node.mode = "offline"
        print("wandb: no account is set up, so the run is kept offline in the run folder (upload it with: wandb sync)")
    file = run_dir / WANDB_ID
    if not file.exists() and ranks.is_first():
        # wandb's agent has made the run of its sweep already.
        given = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
        write_text(file, given or secrets.token_hex(4))
    sweep = next((folder.name for folder in run_dir.parents if (folder / SWEEP).is_file()), None)
    own = {"id": file.read_text(encoding="utf-8").strip() if ranks.is_first() else None, "resume": "allow"}
    return OmegaConf.merge(node, own, {"group": node.group or sweep or dataset})  # type: ignore[return-value]


def finish_wandb(trainer: L.Trainer, *, failed: bool) -> None:
    """End the run, or the next job of a sweep in this process would log into it; a failed one is shown as failed."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish(exit_code=int(failed))
