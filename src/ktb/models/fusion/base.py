"""The contract of a fusion block: what it is built from, what it is given, and what it may return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from torch import Tensor, nn

from ktb.models.layers.check_shapes import check_shape

T = TypeVar("T")


@dataclass
class Fused:
    """What a fusion block returns.

    Attributes:
        map: the fused map (B, H, W, C). The model's own LayerNorm follows it.
        streams: the streams (M, B, H, W, C) that go on into the next stage and to the side heads, not normalised;
            None: they go on as they were.
        losses: named terms (scalars, means over the samples at hand) that are added to the loss; only while training.
    """

    map: Tensor
    streams: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Tensor | Fused, given: Tensor, block: nn.Module) -> Fused:
        """What a block has returned, with its shapes checked.

        Args:
            result: of the block's `forward`.
            given: the streams it was called with, (M, B, H, W, C).
            block: whose result it is.

        Raises:
            PartError: a map, a stream or a loss term of another shape, type or device than the contract says.
        """
        fused = result if isinstance(result, Fused) else cls(result)
        place = "fusion block"
        check_shape(fused.map, given.shape[1:], block, place, "map (B, H, W, C)", like=given)
        if fused.streams is not None:
            check_shape(fused.streams, given.shape, block, place, "streams (M, B, H, W, C)", like=given)
        for name, term in fused.losses.items():
            check_shape(term, (), block, place, f"losses[{name!r}]")
        return fused


class Fusion(nn.Module):
    """Fusion block of one stage.

    The model builds one per stage, with the four arguments below by name and the settings of the configuration. A block
    of your own derives from this class, or has the same methods and attributes.

    Args:
        modalities: names, in stream order.
        channels: C of the stage.
        stage: number of the stage, from 0.
        stride: pixels of the image per position of the stage's map.
    """

    normalised: ClassVar[bool] = True
    """Which maps `forward` is given: True, those after each stream's output LayerNorm; False, those before it, which
    are what the next stage goes on from. A block that changes the streams usually needs the second."""

    def __init__(self, modalities: Sequence[str], channels: int, stage: int, stride: float) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.channels, self.stage, self.stride = channels, stage, stride

    def forward(self, streams: Tensor) -> Tensor | Fused:
        """Streams (M, B, H, W, C) → the fused map (B, H, W, C), or a `Fused` that holds more than that.

        A stream that is masked or missing has gone through the backbone as zeros.
        """
        raise NotImplementedError

    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        """Named maps that show what the block does, for reports: values in [0, 1] of shape (B, h, w), each spread over
        the image. Arguments as in `forward`; called in evaluation mode, without gradients."""
        return {}


def of_stage(setting: T | Sequence[T], stage: int, name: str) -> T:
    """The value of a setting that is one for all stages, or one per stage.

    Raises:
        ValueError: a list that is too short.
    """
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    if len(setting) <= stage:
        raise ValueError(f"{name} must be one value or one per stage, got {list(setting)} for stage {stage}")
    return setting[stage]
