"""One job: build what the configuration describes, train or evaluate it, and leave a complete run folder."""

from __future__ import annotations

import csv
import ctypes
import errno
import io
import logging
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ktb.config.build import instantiate
from ktb.config.overrides import overridden, user_overrides
from ktb.config.saved import merge_saved
from ktb.data import values
from ktb.data.balance import balanced_weights, count_pixels
from ktb.data.module import RGBXDataModule
from ktb.data.spec import DatasetSpec
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.finite import FiniteCheck
from ktb.engine.callbacks.metrics_file import MetricsFile
from ktb.engine.callbacks.panels import Panels
from ktb.engine.callbacks.predictions import Predictions
from ktb.engine.callbacks.progress import Progress
from ktb.engine.callbacks.robustness import Robustness
from ktb.engine.callbacks.saving import Saving
from ktb.engine.callbacks.speed import Speed
from ktb.engine.checkpoint_files import AtomicIO
from ktb.engine.epochs import EpochPlan
from ktb.engine.inference import Inference, describe, inference
from ktb.engine.module import SegmentationModule
from ktb.engine.optim import OptimConfig
from ktb.engine.scoring import ScoringModule
from ktb.errors import CheckpointError, ConfigError, NotFiniteError, WriteError
from ktb.io import atomic_file
from ktb.jobs import finetune, resume
from ktb.losses.pixel import PixelLoss
from ktb.metrics.evaluation import Tally
from ktb.metrics.scores import IMAGE_SCORES, PER_CLASS, finite
from ktb.models.backbones.swin import SwinArch
from ktb.models.layers.norm import BatchNorm
from ktb.models.profile import peak_memory
from ktb.models.segmentor import KTBSegmentor
from ktb.report import result_tables as tables
from ktb.report.notices import notices
from ktb.report.page import page
from ktb.report.runs import read_run
from ktb.run_folder.files import write_json, write_text
from ktb.run_folder.names import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    LAST,
    PAGE,
    PER_IMAGE,
    PREDICTIONS,
    RESULT,
    ROBUSTNESS,
    ROBUSTNESS_PLOT,
    SWEEP,
    WANDB_ID,
    WRITTEN,
    run_of,
)  # fmt: skip
from ktb.run_folder.result import read_result
from ktb.weights.backbone import load_backbone
from ktb.weights.checkpoint import load_published, model_from_checkpoint, refuse_other_data
from ktb.weights.files import find_checkpoint, is_ours, read_file, read_state_dict
from ktb.weights.naming import is_published
from ktb.weights.states import fingerprint

# Not arguments of the classes the groups name.
_DATASET_FACTS = ("name", "default_streams", "default_modality", "recipe")


# ---------------------------------------------------------------------------------------------------------- ktb-train


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train one model, then score its best checkpoint; returns what result.json holds.

    Raises:
        KTBError: a mistake in settings or data; nothing has been written then, unless it shows up in training.
    """
    started = time.time()
    cfg, point = resume.start(cfg, occupied=(CHECKPOINTS, RESULT))
    run_dir = Path(cfg.run_dir)

    data = build_data(cfg)
    if point is not None:
        resume.check_data(point, data)
    data.setup("fit")
    if cfg.test:
        data.setup("test")  # a missing test file is better known now than after the training
    how = _inference(cfg)
    _put_class_weights(cfg, data)
    source = None
    if cfg.init_from and point is None:
        source = finetune.read(cfg.init_from, [m.name for m in data.modalities])
        finetune.check_backbone(source, _arch(cfg), cfg.backbone.name)
        with open_dict(cfg):
            cfg.init_from = str(source.path)
            given = overridden(user_overrides(cfg))
            if source.backbone_weights and "backbone.weights" not in given:  # all else in it was trained on these
                cfg.backbone.weights = source.backbone_weights
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    loss: PixelLoss = instantiate(_without(cfg.loss, "name"))
    backbone = load_backbone(_arch(cfg), cfg.backbone.weights, name=cfg.backbone.name, timm_name=cfg.backbone.timm_name)
    options = {str(k): v for k, v in cfg.model.items()}
    switches = {name: options.pop(name, False) for name in ("channels_last", "compile")}
    try:
        model = KTBSegmentor(
            backbone,
            {m.name: m.channels for m in data.modalities},
            data.spec.num_classes,
            side_heads=loss.uses_side_heads,
            **options,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    started_from: dict[str, Any] | None = None if point is None else point.content["ktb"].get("init_from")
    if source is not None:
        started_from = finetune.start_from(source, model, classes=data.spec.classes, modalities=data.modalities)
        if ranks.is_first():
            print(finetune.describe(started_from))
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.synchronised = cfg.trainer.sync_batchnorm
    module = SegmentationModule(
        model,
        loss,
        modalities=data.modalities,
        classes=data.spec.classes,
        mean_without=data.spec.ids_without,
        optim=OptimConfig(**{str(k): v for k, v in cfg.optim.items()}),
        seed=cfg.seed,
        inference=how,
        keep_frozen=cfg.backbone.weights == "random",
        **switches,
        provenance=_provenance(cfg, data, fingerprint(backbone))
        | ({"init_from": started_from} if started_from else {}),
    )

    if point is not None:  # a checkpoint of another model must not cost the run its files
        module.on_load_checkpoint(point.content)
    saving = Saving(run_dir / CHECKPOINTS, every_steps=cfg.save.every_n_steps, every_minutes=cfg.save.every_n_minutes)
    check = FiniteCheck(saving)
    panels = Panels(run_dir, data.spec, data.modalities)
    trainer = _trainer(
        cfg,
        [saving, check, Speed(), panels, *(_predictions(run_dir, data) if cfg.test else [])],
        AtomicIO(cfg.save.keep, {point.path: point.content} if point else None),
    )
    plan = EpochPlan.planned(
        samples=len(data.dataset("train")),
        batch_size=data.batch_size,
        processes=trainer.world_size,
        limit=trainer.limit_train_batches,
        accumulate=trainer.accumulate_grad_batches,
    )
    # An epoch shorter than the logging interval would never be logged.
    trainer.log_every_n_steps = max(1, min(cfg.trainer.log_every_n_steps, plan.batches))  # type: ignore[attr-defined]
    if point is not None:
        resume.prepare(point, cfg, data, plan, trainer.world_size)
        if resume.results_stand(point, cfg, plan, run_dir / RESULT):
            return dict(read_result(run_dir))
    _claim(run_dir, cfg, point)
    trainer.loggers = _loggers(cfg, run_dir, point)
    _announce(trainer, data, model, run_dir)
    if point is not None:
        resume.announce(point, cfg, plan)
    failed = True
    try:
        result = _fit_and_test(cfg, trainer, module, data, saving, check, point)
        failed = False
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise  # EACCES too: a file of the data may be one that can't be read
        raise WriteError(error.filename or run_dir, error) from error
    except NotFiniteError as error:
        _write_failure(run_dir, error, saving, _facts(cfg, data, model, started))
        raise
    finally:
        _finish_wandb(trainer, failed=failed)
    result |= {
        "status": "finished",
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "best_val_miou": finite(saving.best_score),
        "selection_split": data.spec.selection_split,
        "checkpoint": os.path.relpath(saving.best_path or saving.folder / LAST, run_dir),
        **({"init_from": started_from} if started_from else {}),
        **_facts(cfg, data, model, started),
    }
    if trainer.is_global_zero:
        if cfg.test:
            _write_per_image(run_dir / PER_IMAGE, module.evaluation.images)
        write_json(run_dir / RESULT, result)
        write_text(run_dir / PAGE, page([read_run(run_dir)]))
        _report(result, run_dir, panels if cfg.test else None, None)
    return result


def _fit_and_test(
    cfg: DictConfig,
    trainer: L.Trainer,
    module: SegmentationModule,
    data: RGBXDataModule,
    saving: Saving,
    check: FiniteCheck,
    point: resume.Checkpoint | None,
) -> dict[str, Any]:
    """Training, then the test scores of the best checkpoint (empty without a test)."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=point.path if point else None, weights_only=True)
    except RuntimeError as error:
        if explained := check.explain(trainer, error):
            raise explained from None
        raise
    if not cfg.test:
        return {}
    trainer.test(module, datamodule=data, ckpt_path=saving.best_path, verbose=False, weights_only=True)
    return _scored(module, data)


# ----------------------------------------------------------------------------------------------------------- ktb-eval


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score one checkpoint; returns what result.json holds.

    Raises:
        KTBError: a mistake in settings, checkpoint or data; nothing has been written then.
    """
    started = time.time()
    file = find_checkpoint(cfg.checkpoint)
    cfg, data, model = open_checkpoint(file, cfg, user_overrides(cfg))
    how = _inference(cfg)
    robustness = Robustness(_options(cfg.robustness), data.modalities, cfg.seed) if cfg.robustness else None
    data.setup("test")
    if robustness and not data.labelled(data.spec.report_split):
        raise ConfigError(
            f"robustness= compares scores, but the {data.spec.report_split} split of {data.spec.name} has no labels; "
            f"choose another split=, such as {data.spec.selection_split}"
        )

    if ranks.is_first():
        for line in values.compare(data, data.spec.report_split, model.about.get("values")):
            print(f"warning: {line}", file=sys.stderr, flush=True)

    folder = ranks.decide("run folder", lambda: str(cfg.run_dir or _eval_folder(file)), processes=resume.processes(cfg))
    run_dir = Path(folder)
    if (run_dir / CHECKPOINTS).exists() or (run_dir / RESULT).exists():
        raise ConfigError(f"{run_dir} already holds results; choose another run_dir for those of this evaluation")
    with open_dict(cfg):
        cfg.run_dir = str(run_dir)
    _make_folder(run_dir)
    module = ScoringModule(
        model,
        modalities=data.modalities,
        classes=data.spec.classes,
        mean_without=data.spec.ids_without,
        inference=how,
    )
    panels = Panels(run_dir, data.spec, data.modalities, cfg.panels)
    trainer = _trainer(cfg, [*([robustness] if robustness else []), panels, *_predictions(run_dir, data)])
    trainer.test(module, datamodule=data, verbose=False)
    result = _scored(module, data) | {
        "status": "finished",
        "checkpoint": str(file),
        **_facts(cfg, data, model, started),
    }
    if trainer.is_global_zero:
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        _write_per_image(run_dir / PER_IMAGE, module.evaluation.images)
        disturbed = _write_robustness(run_dir, result, robustness.result) if robustness else None
        write_json(run_dir / RESULT, result)
        write_text(run_dir / PAGE, page([read_run(run_dir)]))
        _report(result, run_dir, panels, disturbed)
    return result


def open_checkpoint(
    file: Path, cfg: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, RGBXDataModule, KTBSegmentor]:
    """The model of a checkpoint of ktb-train or of a published one, and the data it belongs to.

    Args:
        file: the checkpoint.
        cfg: what was composed for ktb-eval.
        overrides: what the user wrote on the command line; of a checkpoint that brings the config of its own run, only
            that is put over it.

    Returns:
        the config that counts, its DataModule (no file has been looked at yet), and the model.

    Raises:
        KTBError: the checkpoint cannot be used, or not with that data.
    """
    content = read_file(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: expected a state dict (name → tensor), found {type(content).__name__}")
    ours = is_ours(content)
    about = content["ktb"] if ours else {}
    if "config" in about:  # not in a bundle of a published checkpoint, whose data the groups say
        cfg = merge_saved(_config_in(about, file), cfg, overrides)
    with open_dict(cfg):
        cfg.dataset.streams = cfg.modality.streams  # a saved config is resolved: modality= alone would not reach it
        if cfg.split:
            cfg.dataset.report_split = cfg.split
    data = build_data(cfg)
    streams = [m.name for m in data.modalities]
    if ours:
        given = "config" in about or "backbone.weights" in overridden(overrides)
        moved = cfg.backbone.weights if given else None
        if moved == (about.get("backbone") or {}).get("weights"):
            moved = None
        model = model_from_checkpoint(content, str(file), weights=moved)
    elif is_published(read_state_dict(content)):
        if len(streams) != 2 or streams[0] != "rgb":
            raise CheckpointError(f"{file}: a published checkpoint takes rgb and one other modality, got {streams}")
        model = load_published(content, ("rgb", streams[1]))
    else:
        raise CheckpointError(
            f"{file}: neither a checkpoint of ktb-train nor a published one "
            f"(names like {next(iter(read_state_dict(content)))})"
        )
    refuse_other_data(
        model.config,
        about.get("classes"),
        str(file),
        dataset=data.spec.name,
        classes=data.spec.classes,
        channels={m.name: m.channels for m in data.modalities},
        remedy="",
    )
    return cfg, data, model


def _config_in(about: Mapping[str, Any], file: Path) -> DictConfig:
    """The run's own configuration out of a checkpoint."""
    try:
        config = OmegaConf.create(str(about["config"]))
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged: the config in it is no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(config, DictConfig):
        raise CheckpointError(f"{file}: damaged: the config in it is no mapping")
    return config


# ----------------------------------------------------------------------------------------------------------- building


def build_data(cfg: DictConfig) -> RGBXDataModule:
    """The DataModule that `cfg.dataset` describes; files are looked at in its `setup`."""
    data: RGBXDataModule = instantiate(_without(cfg.dataset, *_DATASET_FACTS), scoring=cfg.eval.scoring)
    data.spec = replace(data.spec, name=cfg.dataset.name)  # a user's own data set is called as its config is
    return data


def _put_class_weights(cfg: DictConfig, data: RGBXDataModule) -> None:
    """Replace `loss.class_weights=auto` by numbers, so that the run's config and a resumed run have them."""
    given = cfg.loss.get("class_weights")
    if given is None:
        return
    classes = data.spec.classes
    if given == "auto":
        weights = ranks.decide(
            "class weights", lambda: balanced_weights(count_pixels(data).counts), processes=resume.processes(cfg)
        )
        with open_dict(cfg):
            cfg.loss.class_weights = weights
    elif len(given) != len(classes):
        raise ConfigError(
            f"loss.class_weights has {len(given)} numbers, but {data.spec.name} has {len(classes)} classes "
            f"({', '.join(classes[:4])}{', ...' * (len(classes) > 4)}); expected one each, or auto"
        )
    if ranks.is_first():
        named = ", ".join(f"{name} {weight:g}" for name, weight in zip(classes, cfg.loss.class_weights, strict=True))
        print(f"class weights: {named}")


def _predictions(run_dir: Path, data: RGBXDataModule) -> list[Callback]:
    """What writes the predictions for a report split without labels."""
    if data.labelled(data.spec.report_split):
        return []
    return [Predictions(run_dir / PREDICTIONS, data.as_stored, data.spec.num_classes)]


def _inference(cfg: DictConfig) -> Inference:
    return inference(**_options(_without(cfg.eval, "name", "scoring")))


def _protocol(cfg: DictConfig, mean_without: Sequence[str]) -> dict[str, Any]:
    """How the split was scored: the name of the group's member, in words, its settings, and the classes that the means
    leave out."""
    settings = _options(_without(cfg.eval, "name"))
    description = describe(**settings)
    if mean_without:
        description += f", means without {', '.join(mean_without)}"
    return {
        "name": cfg.eval.name,
        "description": description,
        "settings": settings,
        "mean_without": list(mean_without),
    }


def _options(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node))


def _without(node: DictConfig, *keys: str) -> DictConfig:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return OmegaConf.create({k: v for k, v in values.items() if k not in keys})


def _arch(cfg: DictConfig) -> SwinArch:
    b = cfg.backbone
    try:
        return SwinArch(
            embed_dim=b.embed_dim,
            depths=tuple(b.depths),
            num_heads=tuple(b.num_heads),
            window_size=b.window_size,
            mlp_ratio=b.mlp_ratio,
            drop_path=b.drop_path,
        )
    except ValueError as error:
        raise ConfigError(f"backbone={b.name}: {error}") from None


def _provenance(cfg: DictConfig, data: RGBXDataModule, sha256: str) -> dict[str, Any]:
    weights = cfg.backbone.weights
    return {
        "config": OmegaConf.to_yaml(cfg, resolve=True),
        "dataset": data.spec.name,
        "classes": list(data.spec.classes),
        "palette": [list(colour) for colour in data.spec.palette],
        "modalities": [asdict(m) for m in data.modalities],
        "values": values.measure(data, "train"),
        "backbone": {
            "name": cfg.backbone.name,
            "timm_name": cfg.backbone.timm_name,
            "weights": weights if weights in ("hub", "bundled", "random") else str(Path(weights).absolute()),
            "sha256": sha256,
        },
        "version": version("ktb"),
    }


def _trainer(cfg: DictConfig, callbacks: list[Callback], *plugins: CheckpointIO) -> L.Trainer:
    options = _without(cfg.trainer, "sync_batchnorm")
    _quiet_lightning()
    if not torch.cuda.is_available():
        _keep_freed_memory()
    if options.enable_progress_bar:
        callbacks = [*callbacks, Progress()]
    try:
        return L.Trainer(
            **{str(k): v for k, v in options.items()},
            callbacks=callbacks,
            plugins=[*plugins, *filter(None, [ranks.slurm()])],
            logger=False,
            enable_checkpointing=bool(plugins),
            default_root_dir=str(cfg.run_dir),
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        if "gpu" in said.lower():
            said += f"; PyTorch finds {torch.cuda.device_count()} GPUs here: set trainer.devices, or use trainer=cpu"
        raise ConfigError(f"trainer: {said}") from None


def _keep_freed_memory() -> None:
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


def _quiet_lightning() -> None:
    """Its banner says nothing about this run, and these warnings are about what we do on purpose."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        "Grad strides do not match bucket view strides",  # of a few 1x1 convolutions, some kilobytes
        ".*`self.log\\(.*sync_dist=True",  # what we log is the same on all ranks
        ".*your dataloader is not resumable",  # ours is told where to start (RGBXDataModule.start_at)
        ".*does not have many workers",  # dataset.num_workers is the user's decision
        ".*`srun` command is available",  # a cluster's login node may train without it
        "Error detected in ",  # of trainer.detect_anomaly, with a stack trace: FiniteCheck says it
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # lightning 2.6 on torch 2.15
    ):
        warnings.filterwarnings("ignore", message)


def _loggers(cfg: DictConfig, run_dir: Path, point: resume.Checkpoint | None) -> list[Logger]:
    loggers: list[Logger] = []
    for node in (cfg.logger or {}).values():  # logger=null: none
        node = _without(node)
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


def _finish_wandb(trainer: L.Trainer, *, failed: bool) -> None:
    """End the run, or the next job of a sweep in this process would log into it; a failed one is shown as failed."""
    if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        import wandb

        wandb.finish(exit_code=int(failed))


# --------------------------------------------------------------------------------------------------------- run folder


def _claim(run_dir: Path, cfg: DictConfig, point: resume.Checkpoint | None) -> None:
    """Create the run folder, empty of an earlier run's files and of results of less training, with the configuration
    in it."""
    if not ranks.is_first():
        return
    _make_folder(run_dir)
    own = point is not None and point.path.resolve().is_relative_to(run_dir.resolve())
    if cfg.overwrite and not own:
        for name in WRITTEN:
            path = run_dir / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for name in (RESULT, PER_IMAGE, PAGE):  # they are written again at the end; until then nobody takes them for new
        (run_dir / name).unlink(missing_ok=True)
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder}: can't write results here ({error.strerror}); choose another folder with run_dir=..."
        ) from None


def _eval_folder(file: Path) -> Path:
    return run_of(file) / EVALUATIONS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


# ------------------------------------------------------------------------------------------------------------- result


def _write_failure(run_dir: Path, error: NotFiniteError, saving: Saving, facts: dict[str, Any]) -> None:
    """A result.json without scores, so that nobody takes those of an earlier training for this one's, and its page."""
    if ranks.is_first():
        good = saving.newest and os.path.relpath(saving.newest, run_dir)
        failure = {"status": "failed", "cause": "not finite", "error": str(error), "checkpoint": good}
        write_json(run_dir / RESULT, failure | facts)
        write_text(run_dir / PAGE, page([read_run(run_dir)]))


def _scored(module: ScoringModule, data: RGBXDataModule) -> dict[str, Any]:
    """Test scores in [0, 1], per class and per condition too; null where there was nothing to score, and for a split
    without labels the folder of the predictions."""
    evaluation, spec = module.evaluation, data.spec
    total = _scores(evaluation.total, spec)
    if not data.labelled(spec.report_split):
        total |= {"metrics": dict.fromkeys(total["metrics"]), "labels": False, "predictions": PREDICTIONS}
    return {
        **total,
        "confusion_matrix": evaluation.total.matrix.tolist(),
        "per_condition": {
            condition: {
                value: {"samples": tally.samples, **_scores(tally, spec)} for value, tally in sorted(values.items())
            }
            for condition, values in evaluation.conditions.items()
        },
    }


def _scores(tally: Tally, spec: DatasetSpec) -> dict[str, Any]:
    result = tally.scores(spec.ids_without)
    return {
        "metrics": {k: finite(v) for k, v in result.items() if k not in PER_CLASS},
        "per_class": {name: {k: finite(result[k][i]) for k in PER_CLASS} for i, name in enumerate(spec.classes)},
    }


def _write_robustness(run_dir: Path, result: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """robustness.json, and the plot of it."""
    about = ("dataset", "split", "protocol", "checkpoint", "modalities", "seed")
    content = {key: result[key] for key in about} | found
    write_json(run_dir / ROBUSTNESS, content)
    if found["full"]["metrics"]["miou"] is not None:  # a split without any label has no scores
        with atomic_file(run_dir / ROBUSTNESS_PLOT) as partial:
            tables.robustness_figure(content).savefig(partial, format="png", dpi=130)
    return content


def _write_per_image(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per image: id, conditions, labelled pixels, scores; an empty field where there is none."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    scores_last = [c for c in columns if c not in IMAGE_SCORES] + list(IMAGE_SCORES)
    text = io.StringIO()
    writer = csv.DictWriter(text, scores_last, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()})
    write_text(path, text.getvalue())


def _facts(cfg: DictConfig, data: RGBXDataModule, model: KTBSegmentor, started: float) -> dict[str, Any]:
    parameters = {"total": sum(p.numel() for p in model.parameters())}
    parameters["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    packages = ("ktb", "torch", "lightning", "timm", "torchmetrics", "albumentations", "numpy")
    return {
        "dataset": data.spec.name,
        "split": data.spec.report_split,
        "protocol": _protocol(cfg, data.spec.mean_without),
        "modalities": [m.name for m in data.modalities],
        "backbone": cfg.backbone.name,
        "seed": cfg.seed,
        "parameters": parameters,
        "wall_time_s": round(time.time() - started, 1),
        "peak_memory_mb": None if (peak := peak_memory()) is None else round(peak / 2**20),
        "peak_gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20) if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "git": _git_state(),
        "command": sys.argv,
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout ktb runs from; None for an installed wheel."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *args],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        if not Path(git("rev-parse", "--show-toplevel"), "src", "ktb").samefile(folder):
            return None  # a repository that merely contains the virtual environment
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _announce(trainer: L.Trainer, data: RGBXDataModule, model: KTBSegmentor, run_dir: Path) -> None:
    if not trainer.is_global_zero:
        return
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    sizes = ", ".join(f"{split} {len(data.dataset(split))}" for split in ("train", data.spec.selection_split))
    print(
        f"{data.spec.name}: {sizes} samples, {' + '.join(m.name for m in data.modalities)}, "
        f"{data.spec.num_classes} classes; {trained:,} of {total:,} parameters are trained\nrun folder: {run_dir}",
        flush=True,
    )


def _report(result: dict[str, Any], run_dir: Path, panels: Panels | None, disturbed: dict[str, Any] | None) -> None:
    """The tables a person reads at the end."""
    from rich.console import Console

    unlabelled = "predictions" in result
    blocks = [tables.score_tables(result)] if "metrics" in result and not unlabelled else []
    blocks += [tables.robustness_tables(disturbed)] if disturbed else []
    for block in blocks:
        print(tables.heading(result))
        for table in block:
            Console().print(table)
    if blocks:
        print(tables.score_line(result))
    for text in notices(read_run(run_dir)):
        print(f"note: {text}")
    if unlabelled:
        print(f"{result['dataset']} {result['split']} split has no labels, so there are no scores")
        print(f"predictions, in stored ids: {run_dir / PREDICTIONS}")
    if panels is not None and panels.path.exists():
        print(f"pictures: {panels.path}")
    if disturbed:
        print(f"sensors:  {run_dir / ROBUSTNESS}, {ROBUSTNESS_PLOT}")
    print(f"results:  {run_dir / RESULT}\nreport:   {run_dir / PAGE}")
