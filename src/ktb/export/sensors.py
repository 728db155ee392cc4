"""What a sensor gives a file that prepares its frames itself: type, size and channels of each modality's array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ktb.data.arrays import Size
from ktb.data.augment import EvalTransform
from ktb.data.label_size import LabelSizes
from ktb.data.steps import Step
from ktb.errors import ConfigError, did_you_mean

StoredType = Literal["uint8", "uint16", "float32"]
Preparation = Mapping[str, Sequence[Step]]
"""Modality → the steps from its array to what the network takes, as `ktb.data.preparation` gives them."""


@dataclass(frozen=True)
class Sensor:
    """An array as a file takes it.

    Args:
        size: (height, width).
        channels: 1: the array is (height, width), else (height, width, channels).
        type: of its numbers.
    """

    size: Size
    channels: int
    type: StoredType

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, C)."""
        return self.size if self.channels == 1 else (*self.size, self.channels)


@dataclass(frozen=True)
class Wish:
    """What the user says of a sensor; None: as can be told from the steps."""

    type: StoredType | None = None
    size: Size | None = None


def sensors_of(preparation: Preparation, size: Size, wishes: Mapping[str, Wish]) -> dict[str, Sensor]:
    """Modality → its array.

    Without a wish, an array has the size given and the type that the data set's files have first of all: 16 bits where
    those may be metres or millimetres.

    Args:
        preparation: of all modalities.
        size: (height, width) of the frames.
        wishes: modality → what the user says of it.

    Raises:
        ConfigError: an unknown modality, a type that its steps don't take, or a size that they don't change.
    """
    for name in wishes:
        if name not in preparation:
            raise ConfigError(
                f"--sensor {name}: the model has the modalities {', '.join(preparation)}"
                + did_you_mean(name, list(preparation))
            )
    sensors = {}
    for name, steps in preparation.items():
        wish = wishes.get(name, Wish())
        taken = _types(steps)
        kind = wish.type or taken[0]
        if kind not in taken:
            raise ConfigError(f"--sensor {name}={kind}: its preparation takes {', '.join(taken)}")
        own = wish.size or size
        if own != size and not any(step["do"] == "match size" for step in steps):
            raise ConfigError(
                f"--sensor {name}={own[0]}x{own[1]}: its preparation resizes no frame to those of other sensors; "
                f"expected --size {size[0]}x{size[1]}"
            )
        sensors[name] = Sensor(own, _channels(steps), kind)
    return sensors


def _types(steps: Sequence[Step]) -> list[StoredType]:
    """The types that steps take, the likeliest first."""
    for step in steps:
        if step["do"] == "high byte":
            return ["uint16", "uint8"]
        if step["do"] == "take":
            first = [kind for kind in step["factors"] if kind in get_args(StoredType)]
            rest = ("float32", "uint8", "uint16") if step["others"] else ()
            return [*first, *(kind for kind in rest if kind not in first)]
    return list(get_args(StoredType))


def _channels(steps: Sequence[Step]) -> int:
    """How many channels an array has."""
    for step in steps:
        if step["do"] == "channels":
            return 3 if step["how"] == "colour" else 1
        if step["do"] == "pick":
            return int(max(step["channels"])) + 1
    validity = any(step["do"] == "append validity" for step in steps)
    return next(int(step["channels"]) for step in steps if step["do"] == "repeat to") - validity


def sizes(preparation: Preparation, sensors: Mapping[str, Sensor], label_sizes: LabelSizes) -> tuple[Size, Size, Size]:
    """The (height, width) of the answer, of the frames once they agree, and of what the network sees, as
    `ktb.Predictor` has them.

    Args:
        preparation, sensors: of all modalities.
        label_sizes: see `ktb.predict.reading.PictureReader`.
    """
    like = {m: step["like"] for m, steps in preparation.items() for step in steps if step["do"] == "match size"}
    first = min(preparation, key=lambda name: name in like)
    own = sensors[first].size
    # What training resized to a label is resized to the size that the label would have had.
    common = label_sizes(first, own) if like.get(first) == "label" else own
    sides = [step["short_side"] for steps in preparation.values() for step in steps if step["do"] == "resize"]
    return own, common, EvalTransform(sides[0]).size(common) if sides else common
