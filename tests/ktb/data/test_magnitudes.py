"""Another unit or bit depth than in training is noticed; another scene, time of day or camera is not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ktb.data.magnitudes import compare, known, measure, read_measured, sizes, unlike
from ktb.data.sets.folder import FolderDataModule

SIZE = (40, 48)


def scene(seed: int, *, near: float = 800.0, far: float = 6000.0) -> np.ndarray:
    """Depth in millimetres: a floor that goes away, and a hole."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(far * rng.uniform(0.7, 1), near * rng.uniform(1, 1.5), SIZE[0])[:, None] * np.ones(SIZE)
    depth += rng.normal(0, 10, SIZE)
    depth[:4, :20] = 0
    return depth


def colours(seed: int, brightness: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).beta(2, 3, (*SIZE, 3)) * 255 * brightness).astype(np.float64)


def module(root: Path, depth: Any, rgb: Any, *, dtype: str = "uint16", **settings: Any) -> FolderDataModule:
    """Eight samples, four to train on; `depth` and `rgb` make the arrays of each out of its number."""
    for folder in ("rgb", "depth", "label"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(8):
        np.save(root / f"depth/{i}.npy", depth(i))
        np.save(root / f"rgb/{i}.npy", rgb(i))
        np.save(root / f"label/{i}.npy", np.zeros(SIZE, np.uint8))
    return FolderDataModule(
        root,
        modalities={
            "rgb": {"files": "rgb/*.npy", "dtype": "uint16" if rgb(0).dtype == np.uint16 else "uint8"},
            "depth": {"files": "depth/*.npy", "dtype": dtype, "scale": 5000, "hole_value": 0, **settings},
        },
        label={"files": "label/*.npy"},
        classes=["a"],
        splits={"train": 0.5, "val": 0.5},
        streams=["rgb", "depth"],
        num_workers=0,
    )


def millimetres(i: int) -> np.ndarray:
    return scene(i).astype(np.uint16)


def eight_bits(i: int) -> np.ndarray:
    return colours(i).astype(np.uint8)


def verdict(data: FolderDataModule, array: np.ndarray, name: str, path: Path) -> str | None:
    """What a picture of these values is said to be against a training on `data`; the record goes through JSON."""
    record = known(json.loads(json.dumps(measure(data, "train"))))
    np.save(path, array)
    reader = data.readers()[name]
    return unlike(sizes(read_measured(reader, [path])[0]), record[name], reader, data.spec.modalities[name])


def test_what_is_recorded_is_what_the_files_hold(tmp_path):
    data = module(tmp_path, millimetres, eight_bits)
    record = measure(data, "train")
    files = [data.root / e.files["depth"][0] for e in data.dataset("train").samples.entries]
    valid = [v[v > 0].astype(float) for v in map(np.load, files)]
    assert record["depth"]["middle"] == pytest.approx(np.percentile([np.median(v) for v in valid], (5, 95)))
    assert record["depth"]["most"] == pytest.approx(np.percentile([np.percentile(v, 98) for v in valid], (5, 95)))
    assert record["depth"]["measured"] == pytest.approx(1 - 80 / (SIZE[0] * SIZE[1]))
    assert (record["depth"]["unit"], record["rgb"]["unit"]) == (5000, 255)


def test_nothing_random_is_drawn(tmp_path):
    data = module(tmp_path, millimetres, eight_bits)
    torch.manual_seed(1)
    random.seed(1)
    expected = float(torch.rand(())), random.random()
    torch.manual_seed(1)
    random.seed(1)
    assert measure(data, "train") == measure(data, "train")
    assert (float(torch.rand(())), random.random()) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda d: d / 1000, "times less than in training"),  # metres
        (lambda d: d / 10, "times less than in training"),  # centimetres
        (lambda d: d / 16, "times less than in training"),  # 12 bits of 16
        (lambda d: d * 10, "times more than in training"),  # a tenth of a millimetre
        (lambda d: d * 1000, "times more than in training"),
        (lambda d: d * 0, "has no measured pixel, all others are holes; in training 96% or more were measured"),
        (lambda d: d, None),
        (lambda d: d / 2.5, None),
        (lambda d: d * 2.5, None),
        (lambda d: np.where(np.arange(SIZE[1]) % 4 == 0, d, 0), None),  # many holes
        (lambda d: np.where(np.arange(SIZE[1]) < 3, 65535, d), None),  # some pixels out of range
    ],
)
def test_units_of_depth(tmp_path, values, expected):
    data = module(tmp_path, lambda i: scene(i).astype(np.float32), eight_bits, dtype="float32")
    text = verdict(data, values(scene(99)).astype(np.float32), "depth", tmp_path / "x.npy")
    assert (text is None) == (expected is None), text
    assert expected is None or expected in text


def test_the_unit_of_a_plane_is_noticed_as_well(tmp_path):
    settings = {"normalise": "plane", "plane_range": 500}
    data = module(tmp_path, millimetres, eight_bits, **settings)
    assert verdict(data, scene(99).astype(np.uint16), "depth", tmp_path / "x.npy") is None
    text = verdict(data, (scene(99) / 100).astype(np.uint16), "depth", tmp_path / "x.npy")
    assert "times less than in training" in text
    # Scaled picture by picture, the unit does not matter.
    data = module(tmp_path, millimetres, eight_bits, normalise="percentile")
    assert verdict(data, (scene(99) / 100).astype(np.uint16), "depth", tmp_path / "x.npy") is None


def test_another_scale_for_another_unit_puts_it_right(tmp_path):
    record = known(measure(module(tmp_path / "a", millimetres, eight_bits), "train"))["depth"]
    metres = module(tmp_path / "b", lambda i: scene(i).astype(np.float32) / 1000, eight_bits, dtype="float32", scale=5)
    reader, modality = metres.readers()["depth"], metres.spec.modalities["depth"]
    picture = sizes(read_measured(reader, [tmp_path / "b/depth/7.npy"])[0])
    assert unlike(picture, record, reader, modality) is None


@pytest.mark.parametrize(
    ("brightness", "odd"), [(1.0, False), (0.25, False), (0.1, False), (1 / 255, True), (0.0, True)]
)
def test_a_night_is_dark_but_ids_are_no_picture(tmp_path, brightness, odd):
    data = module(tmp_path, millimetres, eight_bits)
    text = verdict(data, colours(99, brightness).astype(np.uint8), "rgb", tmp_path / "x.npy")
    assert (text is not None) == odd, text


def test_bits_of_sixteen_bit_colour(tmp_path):
    data = module(tmp_path, millimetres, lambda i: (colours(i) * 257).astype(np.uint16))
    assert verdict(data, (colours(99) * 257).astype(np.uint16), "rgb", tmp_path / "x.npy") is None
    text = verdict(data, (colours(99) * 16).astype(np.uint16), "rgb", tmp_path / "x.npy")
    assert "16" in text.split(" times less than in training")[0]


def test_pictures_with_few_values_beside_nothing(tmp_path):
    """Events: almost all pixels are 0, which is a measurement."""

    def events(i: int, share: float = 0.01) -> np.ndarray:
        rng = np.random.default_rng(i)
        return np.where(rng.random(SIZE) < share, 255, 0).astype(np.uint16)

    data = module(tmp_path, events, eight_bits, hole_value=None)
    for share in (0.0, 0.01, 0.05, 0.3):
        assert verdict(data, events(99, share), "depth", tmp_path / "x.npy") is None


def test_a_split_in_another_unit(tmp_path):
    record = measure(module(tmp_path / "a", millimetres, eight_bits), "train")
    same = module(tmp_path / "b", lambda i: millimetres(i + 50), eight_bits)
    assert compare(same, "val", record) == []
    other = module(tmp_path / "c", lambda i: (scene(i) / 1000).astype(np.float32), eight_bits, dtype="float32")
    (line,) = compare(other, "val", record)
    assert line.startswith("folder, val: in 4 of 4 samples looked at, depth is unlike what the model was trained on")
    assert "another unit or bit depth?" in line


@pytest.mark.parametrize(
    "record", [None, 3, {"depth": None}, {"depth": {"middle": [1]}}, {"depth": {"middle": [1, "a"], "most": [1, 2]}},
               {"depth": {"middle": [1, float("nan")], "most": [1, 2], "measured": 1, "unit": 1}}]
)  # fmt: skip
def test_a_record_that_says_nothing_compares_nothing(tmp_path, record):
    assert known(record) == {}
    assert compare(module(tmp_path, millimetres, eight_bits), "val", record) == []


def test_damaged_files_are_left_to_the_training(tmp_path):
    data = module(tmp_path, millimetres, eight_bits)
    first = data.dataset("train").samples.entries[0]
    (data.root / first.files["depth"][0]).write_bytes(b"nothing")
    assert set(measure(data, "train")) == {"rgb", "depth"}
