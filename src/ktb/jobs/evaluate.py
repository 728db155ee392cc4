"""One evaluation: score a checkpoint on a split, leave a folder of results."""

from __future__ import annotations

import sys
import time

from omegaconf import DictConfig, OmegaConf

from ktb.config.build import check_targets, named_classes
from ktb.config.overrides import user_overrides
from ktb.config.trust import Trust
from ktb.data import magnitudes
from ktb.data.module import RGBXDataModule
from ktb.distributed import decisions as ranks
from ktb.engine.callbacks.panels import Panels
from ktb.engine.scoring import ScoringModule
from ktb.jobs.build import build_inference, build_metrics, build_robustness
from ktb.jobs.folder import claim_for_evaluation
from ktb.jobs.printed import report
from ktb.jobs.provenance import facts
from ktb.jobs.results import scored, write_per_image, write_result, write_robustness
from ktb.jobs.saved_model import open_checkpoint
from ktb.jobs.trainer import build_trainer, check_limits, unlabelled_predictions
from ktb.models.segmentor import KTBSegmentor
from ktb.run_folder.files import write_text
from ktb.run_folder.names import CONFIG
from ktb.run_folder.result import RunResult
from ktb.weights.files import find_checkpoint


def evaluate(cfg: DictConfig) -> RunResult:
    """Score one checkpoint.

    Args:
        cfg: composed from conf/eval.yaml and checked.

    Returns:
        what result.json holds.

    Raises:
        KTBError: a mistake in settings, checkpoint or data; nothing has been written then.
    """
    started = time.time()
    file = find_checkpoint(cfg.checkpoint)
    trust = Trust.of(cfg.trust, named_classes(cfg))
    cfg, data, model = open_checkpoint(file, cfg, user_overrides(cfg))
    inference = build_inference(cfg)
    check_targets({"metrics": cfg.metrics}, f"{file}: its configuration", trust)
    metrics = build_metrics(cfg, data.spec.num_classes)
    data.setup("test")
    robustness = build_robustness(cfg, data)
    _warn_of_other_values(data, model)

    run_dir = claim_for_evaluation(cfg, file)
    module = ScoringModule(
        model,
        modalities=data.modalities,
        classes=data.spec.classes,
        mean_without=data.spec.ids_without,
        inference=inference,
        metrics=metrics,
    )
    panels = Panels(run_dir, data.spec, data.modalities, cfg.panels)
    callbacks = [*([robustness] if robustness else []), panels, *unlabelled_predictions(run_dir, data)]
    trainer = build_trainer(cfg, callbacks)
    check_limits(cfg, trainer, data, "test")
    trainer.test(module, datamodule=data, verbose=False)

    result = scored(module, data)
    result |= {"status": "finished", "checkpoint": str(file)}
    result |= facts(cfg, data, model, started)
    if trainer.is_global_zero:
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        write_per_image(run_dir, module.evaluation.images)
        disturbed = write_robustness(run_dir, result, robustness.result) if robustness else None
        write_result(run_dir, result)
        report(result, run_dir, panels, disturbed)
    return result


def _warn_of_other_values(data: RGBXDataModule, model: KTBSegmentor) -> None:
    """Warn of values in the split that is scored that are unlike those that the model was trained on."""
    if ranks.is_first():
        for line in magnitudes.compare(data, data.spec.report_split, model.about.get("values")):
            print(f"warning: {line}", file=sys.stderr, flush=True)
