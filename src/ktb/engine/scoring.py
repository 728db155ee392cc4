"""The LightningModule that scores a model on a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import Batch, ModalitySpec, normalize
from ktb.engine.finite_logits import Answers
from ktb.engine.inference import Inference, most_likely, whole_image
from ktb.metrics.evaluation import Evaluation
from ktb.metrics.own import OwnMetrics
from ktb.metrics.scores import scores
from ktb.models.segmentor import KTBSegmentor


class ScoringModule(L.LightningModule):
    """Scores a `KTBSegmentor` on batches of `ktb.data.spec.Batch`.

    Args:
        model: the network.
        modalities: how each stream is normalised, in the model's order.
        classes: names, for logging.
        mean_without: ids of classes that mean scores leave out.
        inference: how the test split is predicted.
        metrics: name → a metric of the user's own, see `ktb.metrics.own`.
    """

    def __init__(
        self,
        model: KTBSegmentor,
        *,
        modalities: Sequence[ModalitySpec],
        classes: Sequence[str],
        mean_without: tuple[int, ...] = (),
        inference: Inference = whole_image,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.modalities = tuple(modalities)
        self.classes = tuple(classes)
        self.mean_without = mean_without
        self.inference = inference
        self.memory_format = torch.contiguous_format
        self.evaluation = Evaluation(len(classes), mean_without)
        """What the last test run counted, over all ranks."""
        self.own_metrics = OwnMetrics(metrics or {})
        self.own_scores: dict[str, float] = {}
        """What they came to in the last test run, over all ranks."""
        self.answers = Answers()
        """Of the evaluation that is running."""

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model takes of a batch: modality → (B, C, H, W), normalised."""
        normal = normalize(batch["inputs"], self.modalities)
        return {name: x.contiguous(memory_format=self.memory_format) for name, x in normal.items()}

    def predict_batch(self, batch: Batch, inference: Inference) -> tuple[Tensor, Tensor]:
        """The model's answer to a batch.

        Args:
            batch: its labels give the size of the answer.
            inference: how the pictures pass through the model.

        Returns:
            class ids (B, H, W), and which samples (B) have finite logits.
        """
        if not batch["id"]:  # a process that no sample was left for
            return batch["label"].long(), batch["label"].new_ones(0, dtype=torch.bool)
        size = (int(batch["label"].shape[-2]), int(batch["label"].shape[-1]))
        return most_likely(inference(self.model, self.inputs(batch), size))

    def on_test_start(self) -> None:
        self.evaluation = Evaluation(len(self.classes), self.mean_without)
        self.own_metrics.begin(self.device)
        self.answers = Answers()

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count a batch; returns its class ids (B, H, W), for callbacks."""
        prediction, answered = self.predict_batch(batch, self.inference)
        self.answers.add(batch["id"], answered)
        if batch["id"]:
            self.evaluation.update(prediction, batch["label"], batch["id"], batch["condition"])
            self.own_metrics.update(prediction, batch["label"])
        return prediction

    def on_test_epoch_end(self) -> None:
        """Sum over the processes, and log.

        Raises:
            NotFiniteError: an image has no answer.
        """
        self.answers.require(self.device)
        self.evaluation = self.evaluation.gather()
        self.own_scores = self.own_metrics.nothing()
        if self.evaluation.total.matrix.any():  # a split without labels has no scores
            self.own_scores = self.own_metrics.compute()
            self.log_scores("test", self.evaluation.total.matrix, self.own_scores)

    def log_scores(self, stage: str, counts: NDArray[np.int64], own: Mapping[str, float]) -> None:
        """Log the scores of a confusion matrix: means as STAGE/NAME, the IoU of each class as STAGE_iou/CLASS.

        Args:
            stage: "val" or "test".
            counts: (K, K), M[truth, prediction].
            own: values of metrics of the user's own, logged as the means.
        """
        result = scores(counts, self.mean_without)
        names = ("miou", "macc", "pixel_acc")
        means = {k: float(result[k]) for k in names} | dict(own)
        self.log_dict({f"{stage}/{k}": value for k, value in means.items()}, prog_bar=False)
        self.log_dict({f"{stage}_iou/{c}": float(v) for c, v in zip(self.classes, result["iou"], strict=True)})
        if stage == "val":
            self.log("val_miou", float(result["miou"]), prog_bar=True, logger=False)
