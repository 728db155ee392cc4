"""The contract of a PEFT method: what is trained inside, or beside, a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

Adapt = Callable[[Tensor, Tensor], Tensor]
"""One block's adapter: adds to its second argument what it makes of the first, both (M·B, H, W, C), modality-major."""


class Adaptable(Protocol):
    """What a PEFT method needs to know of a backbone.

    Attributes:
        prompt_channels: per stage, of the maps that enter its blocks.
        adapter_channels: per stage and block, of the map that stands beside the block's last branch.
    """

    prompt_channels: tuple[int, ...]
    adapter_channels: tuple[tuple[int, ...], ...]

    def blocks(self, stage: int) -> Sequence[nn.Module]:
        """The blocks of a stage, in order."""
        ...

    def blocks_before(self) -> Mapping[str, int]:
        """Name of a parameter → the number of blocks that have begun when it is used, its own with them."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Peft(nn.Module):
    """Nothing is trained in or beside the backbone; other methods derive from this class.

    What a method trains are its own parameters, so that the structure decides and not a list of names. Only a method
    that sets `trains_backbone` lets the backbone itself move.

    Args:
        modalities: names, in stream order.
        backbone: frozen, with its weights loaded. A method that puts something into its layers does so here; it never
            keeps the backbone as a part of itself.
    """

    trains_backbone: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    """Whether `merge` puts all that the method does into the backbone's own weights."""

    def __init__(self, modalities: Sequence[str], backbone: Adaptable) -> None:
        super().__init__()

    def prompt(self, stage: int, streams: Tensor) -> Tensor:
        """The streams (M, B, H, W, C) as they enter a stage's blocks."""
        return streams

    def adapters_of(self, stage: int) -> Sequence[Adapt] | None:
        """One callable per block of a stage; None: none."""
        return None

    def lr_factors(self, backbone: Adaptable) -> Mapping[str, float]:
        """Name of a parameter of the backbone → factor on the learning rate; only of a method that trains it."""
        return {}

    def merge(self) -> None:
        """Of a method that `merges`: fold what it has learned into the backbone's own weights, which then compute the
        same without it. Called by the model on a copy, where nothing is left of the method afterwards."""
