"""One training: build what the configuration describes, train it, score its best checkpoint, leave a run folder."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torchmetrics import Metric

from ktb.config.overrides import overridden, user_overrides
from ktb.config.own import settle_own_classes
from ktb.data.module import RGBXDataModule
from ktb.engine.callbacks.finite import FiniteCheck
from ktb.engine.callbacks.panels import Panels
from ktb.engine.callbacks.saving import Saving
from ktb.engine.callbacks.speed import Speed
from ktb.engine.checkpoint_files import AtomicIO
from ktb.engine.epochs import EpochPlan
from ktb.engine.inference import Inference
from ktb.engine.module import SegmentationModule
from ktb.errors import NotFiniteError, WriteError
from ktb.jobs import finetune, resume, resume_settings
from ktb.jobs.build import build_inference, build_loss, build_metrics, build_model, build_robustness, training_data
from ktb.jobs.callbacks import build_callbacks, early_stopping, settle_callbacks
from ktb.jobs.folder import claimed_for_training
from ktb.jobs.lightning_callbacks import failure_of
from ktb.jobs.loggers import build_loggers, finish_wandb
from ktb.jobs.optimisation import build_optimisation, try_out
from ktb.jobs.printed import announce, report
from ktb.jobs.provenance import facts, provenance
from ktb.jobs.results import scored, write_failure, write_per_image, write_result, write_robustness
from ktb.jobs.trainer import build_trainer, check_limits, unlabelled_predictions
from ktb.jobs.trial_step import try_own_parts
from ktb.losses.base import Loss
from ktb.metrics.scores import finite
from ktb.models.segmentor import KTBSegmentor
from ktb.run_folder.names import CHECKPOINTS, LAST
from ktb.run_folder.result import RunResult, read_result
from ktb.weights.states import fingerprint


def train(cfg: DictConfig) -> RunResult:
    """Train one model, then score its best checkpoint.

    Args:
        cfg: composed from conf/train.yaml and checked.

    Returns:
        what result.json holds.

    Raises:
        KTBError: a mistake in settings or data; nothing has been written then, unless it shows up in training.
    """
    started = time.time()
    settle_own_classes(cfg, overridden(user_overrides(cfg)))
    cfg, point = resume.start(cfg)
    run_dir = Path(cfg.run_dir)

    data = training_data(cfg, point)
    inference = build_inference(cfg)
    source = finetune.chosen(cfg, data) if point is None else None
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    loss = build_loss(cfg)
    model = build_model(cfg, data, side_heads=loss.uses_side_heads)
    begun = finetune.begin(source, model, data) if source else resume.begun(point)
    metrics = build_metrics(cfg, data.spec.num_classes)
    module = _module(cfg, data, model, loss, inference, metrics, begun)
    if point is not None:  # a checkpoint of another model must not cost the run its files
        module.on_load_checkpoint(point.content)

    saving = Saving(run_dir / CHECKPOINTS, every_steps=cfg.save.every_n_steps, every_minutes=cfg.save.every_n_minutes)
    check, panels = FiniteCheck(saving), Panels(run_dir, data.spec, data.modalities)
    written = unlabelled_predictions(run_dir, data) if cfg.test else []
    robustness = build_robustness(cfg, data) if cfg.test else None
    files = AtomicIO(cfg.save.keep, {point.path: point.content} if point else None)
    tested = [*([robustness] if robustness else []), panels, *written]
    chosen = build_callbacks(cfg)
    trainer = build_trainer(cfg, [saving, check, Speed(), *tested, *chosen.values()], files)
    check_limits(cfg, trainer, data, "train", "val", *(["test"] if cfg.test else []))
    all_trained = trainer.world_size > 1 and "find_unused" not in str(cfg.trainer.strategy)
    remarks = try_own_parts(model, loss, metrics, all_trained=all_trained)
    plan = _plan_epochs(cfg, trainer, data)
    try_out(module.optim, model, plan, cfg.trainer.max_epochs)
    if point is not None:
        settle_callbacks(point.content, trainer.callbacks)  # type: ignore[attr-defined]
    if point is not None and resume_settings.is_finished(point, cfg, data, plan, trainer.world_size):
        return read_result(run_dir)

    with claimed_for_training(run_dir, cfg, point):
        trainer.loggers = build_loggers(cfg, run_dir, point)
        announce(trainer, data, model, run_dir, remarks)
        if point is not None:
            resume_settings.announce(point, cfg, plan)
        with _failures_told(run_dir, trainer, saving, lambda: facts(cfg, data, model, started)):
            result = _fit_and_test(cfg, trainer, module, data, saving, check, chosen, point)
        result = _training_facts(trainer, data, saving, run_dir, begun) | result
        result |= facts(cfg, data, model, started)
        if trainer.is_global_zero:
            if cfg.test:
                write_per_image(run_dir, module.evaluation.images)
            disturbed = write_robustness(run_dir, result, robustness.result) if robustness else None
            write_result(run_dir, result)
            report(result, run_dir, panels if cfg.test else None, disturbed)
    return result


def _module(
    cfg: DictConfig,
    data: RGBXDataModule,
    model: KTBSegmentor,
    loss: Loss,
    inference: Inference,
    metrics: dict[str, Metric],
    begun: dict[str, Any] | None,
) -> SegmentationModule:
    """Model, loss and optimiser as Lightning trains them. begun: what was taken from other weights, for checkpoints."""
    about = provenance(cfg, data, fingerprint(model.backbone))
    return SegmentationModule(
        model,
        loss,
        modalities=data.modalities,
        classes=data.spec.classes,
        mean_without=data.spec.ids_without,
        metrics=metrics,
        optim=build_optimisation(cfg),
        seed=cfg.seed,
        inference=inference,
        keep_frozen=cfg.backbone.weights == "random" or model.peft.trains_backbone,
        channels_last=cfg.model.get("channels_last", False),
        compile=cfg.model.get("compile", False),
        provenance=about | ({"init_from": begun} if begun else {}),
    )


def _plan_epochs(cfg: DictConfig, trainer: L.Trainer, data: RGBXDataModule) -> EpochPlan:
    """How an epoch goes; the trainer logs at least once in it."""
    plan = EpochPlan.planned(
        samples=len(data.dataset("train")),
        batch_size=data.batch_size,
        processes=trainer.world_size,
        limit=trainer.limit_train_batches,
        accumulate=trainer.accumulate_grad_batches,
    )
    # An epoch shorter than the logging interval would never be logged.
    trainer.log_every_n_steps = max(1, min(cfg.trainer.log_every_n_steps, plan.batches))  # type: ignore[attr-defined]
    return plan


def _fit_and_test(
    cfg: DictConfig,
    trainer: L.Trainer,
    module: SegmentationModule,
    data: RGBXDataModule,
    saving: Saving,
    check: FiniteCheck,
    chosen: Mapping[str, Callback],
    point: resume.Checkpoint | None,
) -> RunResult:
    """Training, then the test scores of the best checkpoint (none without a test)."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=point.path if point else None, weights_only=True)
    except Exception as error:
        explained = check.explain(trainer, error) if isinstance(error, RuntimeError) else None
        if told := explained or failure_of(error, chosen):
            raise told from None
        raise
    stopped = early_stopping(trainer)  # before another checkpoint's counts are loaded
    if not cfg.test:
        return stopped
    trainer.test(module, datamodule=data, ckpt_path=saving.best_path, verbose=False, weights_only=True)
    return stopped | scored(module, data)


@contextlib.contextmanager
def _failures_told(run_dir: Path, trainer: L.Trainer, saving: Saving, known: Callable[[], RunResult]) -> Iterator[None]:
    """End the run in wandb, as a failed one if it failed; and let a failure that the user can mend be told as one.

    Raises:
        WriteError: the disk is full or read-only.
        NotFiniteError: after a result.json has been written that says so, with what is `known` of the run.
    """
    failed = True
    try:
        yield
        failed = False
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise  # EACCES too: a file of the data may be one that can't be read
        raise WriteError(error.filename or run_dir, error) from error
    except NotFiniteError as error:
        write_failure(run_dir, error, saving, known())
        raise
    finally:
        finish_wandb(trainer, failed=failed)


def _training_facts(
    trainer: L.Trainer, data: RGBXDataModule, saving: Saving, run_dir: Path, begun: dict[str, Any] | None
) -> RunResult:
    """How far the training got, and which of its checkpoints was chosen by what."""
    found: RunResult = {
        "status": "finished",
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "best_val_miou": finite(saving.best_score),
        "selection_split": data.spec.selection_split,
        "checkpoint": os.path.relpath(saving.best_path or saving.folder / LAST, run_dir),
    }
    return {**found, "init_from": begun} if begun else found
