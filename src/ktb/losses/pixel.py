"""The loss of the fused head alone: one of ktb's losses of logits and labels, a weighted sum of them, or your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from ktb.losses.base import Loss
from ktb.losses.cross_entropy import cross_entropy, ohem_cross_entropy
from ktb.losses.regions import dice, lovasz_softmax
from ktb.losses.smoothing import smoothed_cross_entropy
from ktb.models.segmentor import SegOutput

Criterion = Callable[[Tensor, Tensor], Tensor]
"""A loss of one head: logits (B, K, H, W) and target (B, H, W) int64, `ktb.data.spec.ignore_index` of K where a pixel
has no class, to a scalar. The losses of `torch.nn` are of this kind."""

PixelLossKind = str | Criterion | Mapping[str, float | Criterion]
"""The name of one of ktb's, a criterion of your own, or a sum: name of one of ktb's → its weight, or any other name →
a criterion of your own."""

_PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {
    "ce": cross_entropy,
    "ohem": ohem_cross_entropy,
    "dice": dice,
    "lovasz": lovasz_softmax,
}


class PixelLoss(Loss):
    """A loss on the fused head alone.

    Args:
        kind: "ce", "ohem", "dice" or "lovasz" (docs/method.md#other-losses); a sum of them with their weights, such as
            {"ce": 1.0, "dice": 0.5}; or any other callable of logits and target, also as a part of a sum.
        class_weights: one per class, 0 or more (0: the class is not trained on), for those of ktb; None: all classes
            count alike.
        label_smoothing: of the cross-entropy "ce", from 0 to 1.

    Raises:
        ValueError: another kind, weights that can be none, or a setting that nothing of `kind` has.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        kind: PixelLossKind = "ce",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        parts = _parts(kind)
        if class_weights is not None and not any(name in _PIXEL_LOSSES for name in parts):
            raise ValueError("class_weights are for ktb's own losses: set them to null, and give yours its own")
        if label_smoothing and "ce" not in parts:
            raise ValueError(f"label_smoothing={label_smoothing:g} is for the cross-entropy ce, and there is none here")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing:g}")
        self._weights = {name: 1.0 if callable(part) else float(part) for name, part in parts.items()}
        self._of_ktb: dict[str, Callable[..., Tensor]] = {n: _PIXEL_LOSSES[n] for n in parts if n in _PIXEL_LOSSES}
        if label_smoothing:
            self._of_ktb["ce"] = partial(smoothed_cross_entropy, smoothing=label_smoothing)
        self._own: dict[str, Any] = {name: part for name, part in parts.items() if name not in _PIXEL_LOSSES}
        # So that what they hold moves to the device too.
        self.own = nn.ModuleDict({name: part for name, part in self._own.items() if isinstance(part, nn.Module)})
        # They are in the run's configuration: checkpoints are the same with and without them.
        self.register_buffer("class_weights", _checked(class_weights), persistent=False)

    def pixel_terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The parts of the loss of one head by name, not weighted.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) int64.
        """
        terms = {name: loss(logits, target, weights=self.class_weights) for name, loss in self._of_ktb.items()}
        return {**terms, **{name: loss(logits, target) for name, loss in self._own.items()}}

    def combined(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `pixel_terms`."""
        weighted = [term if self._weights[name] == 1 else self._weights[name] * term for name, term in terms.items()]
        return reduce(torch.add, weighted)

    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one head.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) int64.
        """
        return self.combined(self.pixel_terms(logits, target))

    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            out: what the model gave.
            target: class ids (B, H, W), any integer type.

        Returns:
            terms by name: "loss", which is minimised, and of a sum its parts, "loss_<name>".
        """
        terms = self.pixel_terms(out.logits, target.long())
        return {"loss": self.combined(terms), **named(terms, "loss")}


def named(terms: Mapping[str, Tensor], of: str) -> dict[str, Tensor]:
    """What is logged of the parts of a loss called `of`: nothing where it has one part only, which is all of it."""
    return {f"{of}_{name}": term for name, term in terms.items()} if len(terms) > 1 else {}


def _parts(kind: PixelLossKind) -> dict[str, float | Criterion]:
    """Name → weight of one of ktb's, or a criterion of the user's; parts of weight 0 are left out.

    Raises:
        ValueError: something else.
    """
    if callable(kind):
        return {type(kind).__name__: kind}
    if isinstance(kind, str):
        kind = {kind: 1.0}
    parts: dict[str, float | Criterion] = {}
    for name, part in kind.items():
        if callable(part):
            if name in _PIXEL_LOSSES:
                raise ValueError(f"{name} is a loss of ktb: give your own another name")
            parts[str(name)] = part
        elif name not in _PIXEL_LOSSES:
            raise ValueError(f"pixel loss must be one of {', '.join(_PIXEL_LOSSES)}, got {name!r}")
        elif not (math.isfinite(part) and part >= 0):
            raise ValueError(f"the weight of {name} must be a number of 0 or more, got {part}")
        elif part:
            parts[str(name)] = part
    if not parts:
        raise ValueError(f"the loss has no part of weight above 0: {dict(kind)}")
    return parts


def _checked(class_weights: Sequence[float] | None) -> Tensor | None:
    """The class weights as a tensor.

    Raises:
        ValueError: they can't be weights.
    """
    if class_weights is None:
        return None
    weights = torch.tensor([float(w) for w in class_weights])
    if not (weights.isfinite().all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"class_weights must be numbers of 0 or more, not all 0, got {list(class_weights)}")
    return weights
