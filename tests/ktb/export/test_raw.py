"""The preparation in an ONNX file, run by ONNX Runtime: every kind of step, before a stand-in for the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ktb.data.arrays import Array
from ktb.data.label_size import LabelSizes
from ktb.errors import CheckpointError
from ktb.export.file import export_raw
from ktb.export.raw import RawModel
from ktb.export.sensors import Sensor, StoredType
from ktb.export.session import OnnxFile
from ktb.models.segmentor import KTBSegmentor, SegOutput

SIZE = (24, 40)
RESIZE = {"do": "resize", "short_side": 32, "multiple_of": 32}
ONE: list[dict[str, Any]] = [{"do": "channels", "how": "one"}]
STEPS: dict[str, list[dict[str, Any]]] = {
    "rgb": [
        {"do": "take", "factors": {"uint8": 1.0, "uint16": 1 / 257}, "others": False},
        {"do": "channels", "how": "colour"},
        {"do": "round", "type": "uint8"},
        {"do": "multiply and add", "factor": [0.5, 0.25, 1.0], "add": [3.0, 2.0, 1.0]},
        {**RESIZE, "weigh_holes": False},
        {"do": "divide", "by": 255.0},
        {"do": "standardise", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.2]},
        {"do": "repeat to", "channels": 3},
    ],
    "disparity": [
        {"do": "take", "factors": {"uint16": 1.0}, "others": False},
        *ONE,
        {"do": "find holes", "value": 0},
        {"do": "plane", "range": 900.0},
        {"do": "fill holes", "round": False},
        {**RESIZE, "weigh_holes": False},
        {"do": "divide", "by": 1.0},
        {"do": "repeat to", "channels": 3},
    ],
    "depth": [
        {"do": "take", "factors": {"uint16": 1e-3}, "others": True},
        *ONE,
        {"do": "find holes", "value": "nan"},
        {"do": "percentiles", "low": 2.0, "high": 98.0, "every": 4},
        {"do": "match size", "like": "rgb", "smooth": True},
        {**RESIZE, "weigh_holes": True},
        {"do": "zero holes"},
        {"do": "append validity"},
        {"do": "repeat to", "channels": 2},
    ],
    "night": [*ONE, {"do": "high byte"}, {**RESIZE, "weigh_holes": False}, {"do": "repeat to", "channels": 1}],
    "bands": [
        {"do": "take", "factors": {}, "others": True},
        {"do": "pick", "channels": [3, 0]},
        {"do": "percentiles", "low": 5.0, "high": 90.0, "every": 1},
        {"do": "match size", "like": "rgb", "smooth": False},
        {**RESIZE, "weigh_holes": False},
        {"do": "repeat to", "channels": 2},
    ],
}


class Network(nn.Module):
    """In the network's place: classes by a weighted sum of all that is prepared."""

    def __init__(self, num_classes: int, names: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(names)
        self.num_classes = num_classes
        self.about: dict[str, Any] = {"classes": [str(i) for i in range(num_classes)]}
        torch.manual_seed(0)
        channels = sum(STEPS[name][-1]["channels"] for name in names)
        self.mix = nn.Conv2d(channels, num_classes, 3, padding=1)

    def forward(self, inputs: Mapping[str, Tensor], *, side: bool) -> SegOutput:
        x = torch.cat(list(inputs.values()), dim=1)
        x = (x - x.mean((2, 3), keepdim=True)) / x.var((2, 3), keepdim=True).sqrt()
        return SegOutput(self.mix(x))


def raw_model(num_classes: int, names: Sequence[str]) -> RawModel:
    kinds: dict[str, tuple[tuple[int, int], int, StoredType]] = {
        "rgb": (SIZE, 3, "uint16"),
        "disparity": (SIZE, 1, "uint16"),
        "depth": ((12, 20), 1, "float32"),
        "night": (SIZE, 1, "uint16"),
        "bands": ((30, 50), 4, "float32"),
    }
    sensors = {name: Sensor(*kinds[name]) for name in names}
    steps = {name: STEPS[name] for name in names}
    return RawModel(cast(KTBSegmentor, Network(num_classes, names)), steps, sensors, LabelSizes()).eval()


def frames() -> list[dict[str, Array]]:
    """With holes, without, and with nothing measured."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:24, 0:40]
    found = []
    for holes in (0.2, 0.0, 1.0):
        disparity = 9000 + 120 * rows + 30 * columns + rng.normal(0, 150, SIZE)
        depth = rng.random((12, 20)) * 5
        found.append(
            {
                "rgb": rng.integers(0, 65536, (*SIZE, 3)).astype(np.uint16),
                "disparity": np.where(rng.random(SIZE) < holes, 0, disparity).astype(np.uint16),
                "depth": np.where(rng.random((12, 20)) < holes, np.nan, depth).astype(np.float32),
                "night": rng.integers(0, 65536, SIZE).astype(np.uint16),
                "bands": rng.random((30, 50, 4), dtype=np.float32),
            }
        )
    return found


@pytest.mark.slow
def test_onnx_runtime_prepares_what_the_steps_say(tmp_path: Path) -> None:
    raw, file = raw_model(6, list(STEPS)), tmp_path / "raw.onnx"

    def expected(frame: Mapping[str, Array]) -> Array:
        with torch.no_grad():
            return raw(*(torch.from_numpy(frame[name]) for name in raw.sensors)).numpy()

    assert len(np.unique(expected(frames()[0]))) == 6
    assert export_raw(raw, file, frames(), expected) <= 1e-3
    loaded = OnnxFile(file)
    assert {name: (kind.__name__, tuple(shape)) for name, (kind, shape) in loaded.inputs.items()} == {
        name: (sensor.type, sensor.shape) for name, sensor in raw.sensors.items()
    }
    assert loaded.outputs == {"mask": ("tensor(uint8)", [24, 40])}
    assert loaded.takes_frames
    for frame in frames():
        assert (loaded(frame) == expected(frame)).mean() > 0.998


def test_a_program_of_torch_that_answers_otherwise_is_not_written(tmp_path: Path) -> None:
    raw, file = raw_model(300, ["night"]), tmp_path / "raw.pt2"

    def expected(frame: Mapping[str, Array]) -> Array:
        with torch.no_grad():
            return raw(*(torch.from_numpy(frame[name]) for name in raw.sensors)).numpy()

    def shifted(frame: Mapping[str, Array]) -> Array:
        ids = expected(frame)
        ids[:2, :2] += 1
        return ids

    assert expected(frames()[0]).dtype == np.uint16
    with pytest.raises(CheckpointError, match=r"raw\.pt2: not written: 0\.42% of a frame's pixels get another class"):
        export_raw(raw, file, frames()[:1], shifted)
    assert list(tmp_path.iterdir()) == []
    assert export_raw(raw, file, frames()[:1], expected) == 0
