"""The LightningModule that trains: it wires model, loss, optimiser and metrics together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import Batch, ModalitySpec
from ktb.distributed.collectives import summed
from ktb.engine.checkpoint_content import refuse_other_model, without_frozen
from ktb.engine.draws import per_sample
from ktb.engine.finite_logits import Answers
from ktb.engine.inference import Inference, whole_image
from ktb.engine.optim import Optimisation, SteppedSchedule, build_optimizer
from ktb.engine.scoring import ScoringModule
from ktb.engine.seeds import masking_generator, sample_keys
from ktb.losses.base import Loss
from ktb.losses.masking import draw_masks
from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.own import OwnMetrics
from ktb.models.segmentor import KTBSegmentor


class SegmentationModule(ScoringModule):
    """Trains and scores a `KTBSegmentor` on batches of `ktb.data.spec.Batch`.

    Args:
        model: the network; what it trains is what requires gradients.
        loss: what is minimised.
        modalities: how each stream is normalised, in the model's order.
        classes: names, for logging.
        optim: optimiser and schedule.
        seed: with epoch and batch index decides every random draw of a training step.
        inference: how the test split is predicted; validation is one pass over whole images in any case.
        keep_frozen: also write the backbone into checkpoints (needed when its weights exist nowhere else).
        channels_last: let convolutions work on NHWC memory.
        compile: torch.compile the model.
        provenance: plain values stored in every checkpoint under "ktb" (config, data set, backbone identity).
        mean_without: ids of classes that mean scores leave out.
        metrics: name → a metric of the user's own, for validation and test.
    """

    def __init__(
        self,
        model: KTBSegmentor,
        loss: Loss,
        *,
        modalities: Sequence[ModalitySpec],
        classes: Sequence[str],
        optim: Optimisation,
        seed: int,
        inference: Inference = whole_image,
        keep_frozen: bool = False,
        channels_last: bool = False,
        compile: bool = False,
        provenance: dict[str, Any] | None = None,
        mean_without: tuple[int, ...] = (),
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__(
            model,
            modalities=modalities,
            classes=classes,
            mean_without=mean_without,
            inference=inference,
            metrics=metrics,
        )
        self.loss = loss
        self.optim = optim
        self.seed = seed
        self.keep_frozen = keep_frozen
        self.provenance = provenance or {}
        self._draws = per_sample(model)
        if channels_last:
            self.memory_format = torch.channels_last
        model.to(memory_format=self.memory_format)
        if compile:
            model.compile(dynamic=False)  # which windows there are depends on the size
        self.val_matrix = ConfusionMatrix(len(classes))
        self.val_metrics = OwnMetrics(metrics or {})
        self.terms: dict[str, Tensor] = {}
        """Terms of the loss of the last training step, over all ranks; the mean over the batches that are accumulated
        for the step so far."""
        self._accumulated = 0  # batches of the step that is running, before this one

    # ------------------------------------------------------------------------------------------------------- training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._accumulated = batch_idx % self.trainer.accumulate_grad_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch of this process; `ktb.engine.seeds` says what its random numbers follow from."""
        step, world = (self.seed, self.current_epoch, batch_idx), self.trainer.world_size
        size = len(batch["label"])
        mine = range(self.global_rank, size * world, world)
        self._draws.keys = sample_keys(step, mine).to(self.device)
        masked = None
        if self.loss.masking:
            masked = draw_masks(len(self.modalities), size * world, masking_generator(step))[:, mine].to(self.device)
        out = self.model(self.inputs(batch), side=self.loss.uses_side_heads, masked=masked)
        terms = self.loss(out, batch["label"].long())
        if out.losses:
            added = {f"loss_{name}": term for name, term in out.losses.items()}
            terms = {**terms, **added, "loss": terms["loss"] + sum(added.values())}
        self._log_terms(terms)
        return terms["loss"]

    def _log_terms(self, terms: dict[str, Tensor]) -> None:
        means = summed(torch.stack(list(terms.values()))) / self.trainer.world_size
        if (before := self._accumulated) and self.terms:
            means = torch.lerp(torch.stack(list(self.terms.values())), means, 1 / (before + 1))
        self.terms = dict(zip(terms, means, strict=True))
        self.log_dict({f"train/{k}": v for k, v in self.terms.items()}, on_step=True, on_epoch=False, prog_bar=False)
        self.log("loss", self.terms["loss"], on_step=True, prog_bar=True, logger=False)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule, once the number of steps is known."""
        trainer = self.trainer
        trainer.fit_loop.setup_data()  # the number of batches is not known before
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        assert trainer.max_epochs is not None
        optimizer, schedule = build_optimizer(
            self.model, self.optim, epochs=trainer.max_epochs, steps_per_epoch=steps_per_epoch
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule that is not one of PyTorch's classes."""
        scheduler.step()

    def on_train_start(self) -> None:
        """A checkpoint's optimiser has been restored by now, with the settings it was saved with."""
        (schedule,) = self.trainer.lr_scheduler_configs
        cast(SteppedSchedule, schedule.scheduler).resume()

    # ----------------------------------------------------------------------------------------------------- validation

    def on_validation_epoch_start(self) -> None:
        self.answers = Answers()
        self.val_metrics.begin(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch."""
        prediction, answered = self.predict_batch(batch, whole_image)
        self.answers.add(batch["id"], answered)
        self.val_matrix.update(prediction, batch["label"])
        if batch["id"]:
            self.val_metrics.update(prediction, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the scores.

        Raises:
            NotFiniteError: an image has no answer.
        """
        during = self.trainer.state.fn == "fit"
        self.answers.require(self.device, when=f"validation after step {self.global_step}: " if during else "")
        counts = self.val_matrix.compute().cpu().numpy()
        self.val_matrix.reset()
        self.log_scores("val", counts, self.val_metrics.compute() if counts.any() else self.val_metrics.nothing())

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what can be had from elsewhere, and say what the model is."""
        if not self.keep_frozen:
            checkpoint["state_dict"] = without_frozen(checkpoint["state_dict"], self.model)
        checkpoint["ktb"] = {"model": self.model.config, **self.provenance}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Raises:
            CheckpointError: it is one.
        """
        base = self.provenance.get("backbone", {}).get("sha256")
        refuse_other_model(checkpoint, self.model, base=base, holds_frozen=self.keep_frozen)

    @property
    def strict_loading(self) -> bool:
        """Frozen parameters are not in our checkpoints; `refuse_other_model` sees that everything else is."""
        return False

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise AttributeError("checkpoints hold trained parameters only, so loading is never strict")
