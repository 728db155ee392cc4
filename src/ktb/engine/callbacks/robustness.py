"""Scores of every case of missing or disturbed sensors, taken while the test split is read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ktb.data.spec import Batch, ModalitySpec, normalize
from ktb.engine.disturbances import Inputs, SampleNoise, noisy, randomly_zeroed, without
from ktb.engine.finite_logits import Answers
from ktb.engine.inference import Model, most_likely
from ktb.engine.robustness import FUSED, Case, cases, summarise
from ktb.engine.scoring import ScoringModule
from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.scores import scores
from ktb.models.segmentor import KTBSegmentor, SegOutput


class _AllHeads:
    """Fused and side heads of one forward pass, stacked along the classes."""

    def __init__(self, model: KTBSegmentor, side: Sequence[str]) -> None:
        self.model = model
        self.side = side
        self.num_classes = model.num_classes

    def __call__(self, inputs: Mapping[str, Tensor], *, side: bool | None = None) -> SegOutput:
        out = self.model(inputs, side=True)
        return SegOutput(torch.cat([out.logits, *(out.side[m] for m in self.side)], dim=1))


class Robustness(Callback):
    """Scores every case on each test batch, right after the undisturbed prediction: the data are read once.

    Args:
        settings: a member of the group `robustness`.
        modalities: in the model's order.
        seed: of all random changes.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(self, settings: Mapping[str, Any], modalities: Sequence[ModalitySpec], seed: int) -> None:
        self.cases = cases(settings, modalities)
        self._with_emm = any(case.protocol == "emm" for case in self.cases)
        self.modalities = tuple(modalities)
        self.noise = {str(level): dict(noise) for level, noise in (settings.get("nm") or {}).items()}
        self.expected: list[float] = list(settings.get("expected") or [])
        self.seed = seed
        self.result: dict[str, Any] = {}
        """After the test: what robustness.json holds."""

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(ScoringModule, pl_module)
        self._answers = {case: Answers() for case in self.cases}
        self._counts = {
            (case, head): ConfusionMatrix(module.model.num_classes).to(module.device)
            for case in self.cases
            for head in self._heads(case, module.model)
        }

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Predict a batch once per case; `outputs` (B, H, W) are the class ids of the undisturbed prediction."""
        if not batch["id"]:  # a process that no sample was left for
            return
        module = cast(ScoringModule, pl_module)
        with trainer.precision_plugin.test_step_context():  # which sets the type of inputs as well
            inputs = normalize(batch["inputs"], self.modalities)
        draws = SampleNoise(self.seed, batch["id"])
        size = (int(batch["label"].shape[-2]), int(batch["label"].shape[-1]))
        for case in self.cases:
            heads = self._heads(case, module.model)
            if case.protocol == "full" and heads == [FUSED]:
                self._counts[case, FUSED].update(outputs, batch["label"])
                continue
            model: Model = _AllHeads(module.model, heads[1:]) if len(heads) > 1 else module.model
            with trainer.precision_plugin.test_step_context():
                logits = module.inference(model, self._changed(inputs, case, draws), size)
            for head, part in zip(heads, logits.split(module.model.num_classes, dim=1), strict=True):
                prediction, answered = most_likely(part)
                self._answers[case].add(batch["id"], answered)
                self._counts[case, head].update(prediction, batch["label"])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(ScoringModule, pl_module)
        """Put what robustness.json holds into `result`."""
        for case, answers in self._answers.items():
            answers.require(module.device, case=f" in the case {case}")
        without = module.mean_without
        found = {key: scores(metric.compute().cpu().numpy(), without) for key, metric in self._counts.items()}
        self.result = summarise(found, [m.name for m in self.modalities], self.expected)

    def _changed(self, inputs: Inputs, case: Case, draws: SampleNoise) -> Inputs:
        if case.protocol == "emm":
            return without(inputs, case.affected, case.setting, self.modalities)
        if case.protocol == "rmm":
            return randomly_zeroed(inputs, case.affected, float(case.setting), draws)
        if case.protocol == "nm":
            return noisy(inputs, **self.noise[case.setting], draws=draws)
        return inputs

    def _heads(self, case: Case, model: KTBSegmentor) -> list[str]:
        """The fused head, and where modalities are missing the side heads of the others."""
        asked = case.protocol in ("full", "emm") and self._with_emm and bool(model.side_heads)
        return [FUSED, *(m for m in model.modalities if asked and m not in case.affected)]
