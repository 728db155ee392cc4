"""Which arrays a file takes, as its preparation and the user say."""

from __future__ import annotations

from typing import Any

import pytest

from ktb.data.label_size import LabelSize, LabelSizes
from ktb.errors import ConfigError
from ktb.export.sensors import Sensor, Wish, sensors_of, sizes

END: list[dict[str, Any]] = [{"do": "repeat to", "channels": 3}]
RGB: list[dict[str, Any]] = [
    {"do": "take", "factors": {"uint8": 1.0}, "others": False},
    {"do": "channels", "how": "colour"},
    *END,
]
DEPTH: list[dict[str, Any]] = [
    {"do": "take", "factors": {"uint16": 0.001, "uint8": 0.04}, "others": True},
    {"do": "channels", "how": "one"},
    *END,
]
MATCHED = [*DEPTH[:2], {"do": "match size", "like": "rgb", "smooth": True}, *END]
TO_LABEL = [*DEPTH[:2], {"do": "match size", "like": "label", "smooth": True}, *END]
FLOATS = [{"do": "take", "factors": {}, "others": True}, {"do": "pick", "channels": [0, 4, 0]}, *END]
HIGH_BYTE = [{"do": "channels", "how": "one"}, {"do": "high byte"}, *END]
MASKED = [
    {"do": "take", "factors": {"uint16": 1.0}, "others": False},
    {"do": "append validity"},
    {"do": "repeat to", "channels": 5},
]
RESIZE = {"do": "resize", "short_side": 64, "multiple_of": 32, "weigh_holes": False}


@pytest.mark.parametrize(
    ("steps", "channels", "kind"),
    [
        (RGB, 3, "uint8"),
        (DEPTH, 1, "uint16"),
        (FLOATS, 5, "float32"),
        (HIGH_BYTE, 1, "uint16"),
        (MASKED, 4, "uint16"),
    ],
)
def test_type_and_channels_are_told_from_the_steps(steps: list[dict[str, Any]], channels: int, kind: str) -> None:
    (sensor,) = sensors_of({"x": steps}, (45, 60), {}).values()
    assert sensor == Sensor((45, 60), channels, kind)  # type: ignore[arg-type]
    assert sensor.shape == ((45, 60) if channels == 1 else (45, 60, channels))


def test_the_user_may_say_otherwise() -> None:
    found = sensors_of({"rgb": RGB, "x": MATCHED}, (45, 60), {"x": Wish("float32", (30, 40))})
    assert found == {"rgb": Sensor((45, 60), 3, "uint8"), "x": Sensor((30, 40), 1, "float32")}


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ({"deph": Wish("uint8")}, "--sensor deph: the model has the modalities rgb, depth; did you mean 'depth'"),
        ({"rgb": Wish("uint16")}, "--sensor rgb=uint16: its preparation takes uint8"),
        ({"depth": Wish(size=(30, 40))}, "--sensor depth=30x40: its preparation resizes no frame to those of other"),
    ],
)
def test_what_the_steps_do_not_take_is_refused(wishes: dict[str, Wish], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sensors_of({"rgb": RGB, "depth": DEPTH}, (45, 60), wishes)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_of_answer_frames_and_network() -> None:
    def of(steps: dict[str, Any], own: dict[str, tuple[int, int]], labels: LabelSizes) -> tuple[tuple[int, int], ...]:
        return sizes(steps, {name: Sensor(own[name], 1, "uint8") for name in steps}, labels)

    small = {"rgb": (45, 60), "x": (30, 40)}
    none = LabelSizes()
    assert of({"rgb": RGB, "x": MATCHED}, small, none) == ((45, 60), (45, 60), (45, 60))
    assert of({"rgb": [*RGB, RESIZE], "x": [*MATCHED, RESIZE]}, small, none) == ((45, 60), (45, 60), (64, 96))
    labels = LabelSizes(rgb=LabelSize(scale=2.0))
    both = {"rgb": [*RGB[:2], TO_LABEL[2], *END], "x": TO_LABEL}
    assert of(both, small, labels) == ((45, 60), (90, 120), (90, 120))
    # Only x is resized to rgb, though its frames come first.
    assert of({"x": MATCHED, "rgb": RGB}, small, none) == ((45, 60), (45, 60), (45, 60))
