"""What backbones made of a model of timm have in common: how the model is built, and its statistics of RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ktb.errors import ConfigError
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.entry import Normalisation
from ktb.models.backbones.timm_model import create, normalisation_of


class OfTimm(Backbone):
    """A backbone made of a model of timm.

    Args:
        timm_name: as `timm.create_model` takes it.
        drop_path: rate of stochastic depth.
        mean, std: of the RGB images that the weights were trained with; None: what timm says.
        options: other arguments of `timm.create_model`.

    Raises:
        ConfigError: timm has no such model, or it does not fit.
    """

    kind: ClassVar[str]
    """What a model that does not fit is not."""
    model: Any  # timm's; its classes share no type that says what they have

    def __init__(
        self,
        timm_name: str,
        drop_path: float = 0.0,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = create(timm_name, drop_path, options or {})
        mean, std = normalisation_of(self.model, mean, std)
        self.config = {
            "timm_name": timm_name, "drop_path": drop_path, "mean": mean, "std": std, "options": dict(options or {})
        }  # fmt: skip
        self._normalise = Normalisation(mean, std)
        self.requires_grad_(False)
        try:
            self._build()
        except ValueError as error:
            raise ConfigError(f"timm's {timm_name} can't be {self.kind}: {error}") from None
        self.train(self.training)

    def _build(self) -> None:
        """Find stages, blocks and channels in `self.model` and set the attributes of `Backbone`.

        Raises:
            ValueError: it is not such a model; says why.
        """
        raise NotImplementedError
