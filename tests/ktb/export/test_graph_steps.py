"""A graph's steps prepare what ktb prepares, and its class ids are those of ktb, for every data set and treatment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ktb.data.arrays import Array, InMemory
from ktb.data.label_size import LabelSize, LabelSizes
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.data.spec import normalize
from ktb.errors import ConfigError
from ktb.export.graph_steps import prepare, refuse_unknown
from ktb.export.raw import RawModel
from ktb.export.sensors import Sensor, sizes
from ktb.jobs.build import build_data
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.reading import PictureReader
from ktb.predict.tiled_model import TiledModel
from tests.ktb.jobs.saved import FIXTURE_CASES, OWN_CASES, arrays_in, files_of_first, fixture_data, own_data
from tests.ktb.jobs.test_train import configured
from tests.ktb.slow import slow_unless

NO_SIZES = LabelSizes()
OF_ONE_SIZE = [case for case, x in OWN_CASES.items() if "parts" not in x and "half" not in x]
MORE = (
    "bands percentile",
    "percentile fill",
    "percentile mean",
    "plane mean",
    "float whole",
    "float percentile",
)
"""Combinations of what the others try one by one, which are left to `make slow`."""
INEXACT = 2e-5
"""Largest difference of a prepared value: float32 sums in another order, and 16-bit values that lie between two."""


def small_model(data: RGBXDataModule) -> KTBSegmentor:
    torch.manual_seed(0)
    arch = SwinArch(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4), window_size=7)
    streams = {m.name: m.channels for m in data.modalities}
    model = KTBSegmentor(FrozenSwin(arch), streams, data.spec.num_classes, head={"width": 8}).eval()
    with torch.no_grad():
        model.head.predict.weight.normal_(std=1.0)  # logits that differ from pixel to pixel
    return model


def sensors(arrays: dict[str, Array]) -> dict[str, Sensor]:
    return {
        m: Sensor((a.shape[0], a.shape[1]), a.shape[2] if a.ndim == 3 else 1, a.dtype.name) for m, a in arrays.items()
    }


def compare(data: RGBXDataModule, frame: dict[str, Array], label_sizes: LabelSizes = NO_SIZES) -> dict[str, Array]:
    """Modality → differences of what is prepared; the class ids are those of ktb in each pixel that is not on
    the edge between two classes."""
    model, steps = small_model(data), preparation(data, label_sizes)
    tiled = TiledModel(model, data, short_side=data.short_side)
    files = {m: (InMemory(m, a),) for m, a in frame.items()}
    read = PictureReader(tiled, label_sizes=label_sizes)(files, "x", backdrop=False)
    expected = normalize(read.inputs, data.modalities)
    raw = RawModel(model, steps, sensors(frame), label_sizes)
    arrays = {m: torch.from_numpy(a) for m, a in frame.items()}
    found = {m: prepare(a, steps[m], raw.like, raw.seen) for m, a in arrays.items()}
    assert list(found) == list(expected)
    for m, x in expected.items():
        assert found[m].shape == x.shape
        assert found[m].dtype == torch.float32
    with torch.no_grad():  # no class everywhere
        model.head.predict.bias -= model(expected, side=False).logits.mean((0, 2, 3))
    (band,) = tiled.bands(read.inputs, read.size)
    with torch.no_grad():
        ids = raw(*arrays.values()).numpy()
    best = band.logits.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-3).numpy()
    assert clear.mean() > 0.97
    assert len(np.unique(band.ids)) > 1
    assert ids.dtype == band.ids.dtype
    np.testing.assert_array_equal(ids[clear], band.ids[clear])
    return {m: (found[m] - x).abs().numpy() for m, x in expected.items()}


def largest(differences: dict[str, Array]) -> float:
    return max(float(d.max()) for d in differences.values())


def frame_of(data: RGBXDataModule) -> dict[str, Array]:
    """The first frame as sensors would give it: RGBA pictures that hold two sensors' are taken apart."""
    frame: dict[str, Any] = arrays_in(files_of_first(data))
    for name, array in frame.items():
        if isinstance(array, tuple):
            frame[name] = np.stack([part.squeeze() for part in array], axis=2)
        elif name == "thermal" and array.ndim == 3:
            frame[name] = np.ascontiguousarray(array[..., 3 if array.shape[2] == 4 else 0])
        elif array.ndim == 3 and array.shape[2] == 4:
            frame[name] = np.ascontiguousarray(array[..., :3])
        else:
            frame[name] = np.ascontiguousarray(array)
    return frame


def data_of(settings: list[str]) -> RGBXDataModule:
    return build_data(configured("train", [*settings, "dataset.num_workers=0", "run_dir=unused"]))


@pytest.mark.parametrize(("name", "layout", "setting"), FIXTURE_CASES)
def test_what_a_data_set_prepares(name: str, layout: str, setting: str, tmp_path: Path) -> None:
    data = data_of(fixture_data(tmp_path / "data", name, layout, setting))
    frame = frame_of(data)
    for modality, difference in compare(data, frame).items():
        exact = frame[modality].dtype == np.uint8 and "unnormalised" not in setting
        assert difference.max() <= (0 if exact else INEXACT), modality


@pytest.mark.parametrize("size", ["null", "64"])
@pytest.mark.parametrize("case", slow_unless(lambda case: case not in MORE, OF_ONE_SIZE))
def test_what_ones_own_sensor_prepares(case: str, size: str, tmp_path: Path) -> None:
    data = data_of(own_data(tmp_path / "data", OWN_CASES[case], f"dataset.eval_size={size}"))
    frame = frame_of(data)
    assert largest(compare(data, frame)) <= INEXACT
    hole = np.nan if frame["x"].dtype == np.float32 else 0
    if "hole" in OWN_CASES[case]:
        whole = {**frame, "x": np.where(np.isfinite(frame["x"]) & (frame["x"] != 0), frame["x"], np.nanmax(frame["x"]))}
        assert largest(compare(data, whole)) <= INEXACT
        assert largest(compare(data, {**frame, "x": np.full_like(frame["x"], hole)})) <= INEXACT


@pytest.mark.parametrize("case", ["zero", "fill", "validity", "bytes with holes", "picked"])
def test_a_sensor_of_another_size_is_resized_to_the_first(case: str, tmp_path: Path) -> None:
    settings = own_data(tmp_path / "data", OWN_CASES[case], "dataset.eval_size=64")
    data = data_of([*settings, "dataset.resize=first"])
    frame = frame_of(data)
    frame["x"] = np.ascontiguousarray(frame["x"][4:34, 10:50])
    differences = compare(data, frame)["x"]
    # A whole number halfway between two may become either: one step of the sensor, a hundredth of a deviation.
    assert differences.max() <= 0.01
    assert (differences > INEXACT).mean() <= 0.01


@pytest.mark.parametrize("case", ["zero", "validity"])
def test_frames_are_resized_as_training_resized_them_to_their_label(case: str, tmp_path: Path) -> None:
    data = data_of([*own_data(tmp_path / "data", OWN_CASES[case]), "dataset.resize=label"])
    labels = LabelSizes(rgb=LabelSize(scale=1.6), x=LabelSize(scale=2.0))
    frame = frame_of(data)
    assert largest(compare(data, frame, labels)) <= INEXACT
    assert sizes(preparation(data, labels), sensors(frame), labels) == ((45, 60), (72, 96), (72, 96))


@pytest.mark.parametrize("name", ["sunrgbd", "deliver"])
def test_the_nearest_pixel_of_a_sensor_of_another_size(name: str, tmp_path: Path) -> None:
    layout = {"sunrgbd": "16bit", "deliver": "folders"}[name]
    data = data_of(fixture_data(tmp_path / "data", name, layout, "eval_size=64"))
    frame = frame_of(data)
    other = {"sunrgbd": "depth", "deliver": "event"}[name]
    frame[other] = np.ascontiguousarray(frame[other][3:23, 5:38])
    labels = LabelSizes(depth=LabelSize(scale=1.0))
    assert largest(compare(data, frame, labels)) == 0


def test_files_of_one_sensor_that_differ_in_size_are_refused_in_one_line(tmp_path: Path) -> None:
    data = data_of(own_data(tmp_path / "data", OWN_CASES["files"]))
    with pytest.raises(ConfigError, match="x is prepared by a step that a graph cannot have: Stack the files"):
        refuse_unknown(preparation(data, NO_SIZES))


def test_a_step_that_no_graph_has_is_refused_in_one_line() -> None:
    steps = {"rgb": [{"do": "divide", "by": 255.0}], "x": [{"do": "read as", "name": "mine.Reader"}]}
    with pytest.raises(ConfigError, match="x is prepared by a step that a graph cannot have: Read as mine.Reader"):
        refuse_unknown(steps)
