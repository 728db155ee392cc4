"""A program that knows only what a file says of its inputs prepares what ktb prepares, for every data set and
treatment."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ktb import load_model
from ktb.cli.model import main
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.data.sets.folder import FolderDataModule
from ktb.data.spec import normalize
from ktb.data.steps import in_words
from ktb.jobs.build import build_data
from ktb.jobs.provenance import provenance
from ktb.predict.pairing import PictureFiles
from ktb.predict.reading import PictureReader
from ktb.predict.tiled_model import TiledModel
from ktb.weights.bundle import save_bundle
from tests.ktb.jobs.saved import FIXTURE_CASES, OWN_CASES, array_in, files_of_first, fixture_data, own_data, save
from tests.ktb.jobs.test_train import configured
from tests.ktb.predict.test_folder import tiny_model

Array = NDArray[Any]


class Program:
    """Prepares one modality as its steps say. It knows nothing of ktb."""

    def __init__(self, arrays: list[Array], size: tuple[int, int]) -> None:
        self.parts = [a[..., None] if a.ndim == 2 else a for a in arrays]
        self.unequal = len({part.shape[:2] for part in self.parts}) > 1
        if not self.unequal:
            self.x = np.concatenate(self.parts, axis=2)
        self.valid: Array | None = None
        self.size = size
        self.bytes = False

    def mark_no_data(self) -> None:
        """`array_in` did, as it reads the tags."""

    def stack_files(self, holes: float | str | None) -> None:
        height, width = self.parts[0].shape[:2]
        stacked = []
        for part in self.parts:
            if part.shape[:2] != (height, width) and holes is None:
                part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
            elif part.shape[:2] != (height, width):
                mask = (np.isfinite(part) if holes == "nan" else part != holes).all(2)
                values = np.where(mask[..., None], part, 0).astype(np.float32)
                values, weight = (
                    cv2.resize(a, (width, height), interpolation=cv2.INTER_LINEAR)
                    for a in (values, mask.astype(np.float32))
                )
                mean = (values / np.maximum(weight, 0.5))[..., None]
                mean = mean if part.dtype.kind == "f" else np.rint(mean)
                part = np.where((weight >= 0.5)[..., None], mean, np.nan if holes == "nan" else holes).astype(
                    part.dtype
                )
            stacked.append(part)
        self.x = np.concatenate(stacked, axis=2)

    def take(self, factors: dict[str, float], others: bool) -> None:
        if self.unequal:  # to be stacked
            assert len(factors) == (not others)
            self.parts = [part if factors else part.astype(np.float32) for part in self.parts]
            return
        name = self.x.dtype.name
        assert name in factors or others
        self.bytes = "uint8" in factors and not others
        if name not in factors or factors[name] != 1:
            self.x = self.x.astype(np.float32) * np.float32(factors.get(name, 1))

    def channels(self, how: str) -> None:
        if how == "colour":
            self.x = np.repeat(self.x, 3, 2) if self.x.shape[2] == 1 else self.x[..., :3]
        elif how == "one":
            self.x = self.x[..., :1]
        elif how == "fourth":
            self.x = self.x[..., 3:] if self.x.shape[2] == 4 else self.x[..., :1]
        else:
            raise AssertionError(how)

    def pick(self, channels: list[int]) -> None:
        self.x = self.x[..., channels]

    def high_byte(self) -> None:
        self.x = (self.x // (256 if self.x.dtype == np.uint16 else 1)).astype(np.uint8)

    def multiply_and_add(self, factor: list[float], add: list[float]) -> None:
        self.x = (self.x * np.array(factor) + np.array(add)).astype(np.float32)
        self.bytes = False

    def find_holes(self, value: float | str) -> None:
        hole = ~np.isfinite(self.x) if value == "nan" else self.x == value
        self.valid = ~hole.any(2)

    def plane(self, range: float) -> None:
        height, width, _ = self.x.shape
        k = max(1, math.floor(math.sqrt(height * width / 2500)))
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        terms = np.stack([np.ones(rows.shape), rows / height, columns / width], axis=2)
        measured = np.ones(rows.shape, bool) if self.valid is None else self.valid
        used = measured[::k, ::k].ravel()
        a, b = terms[::k, ::k].reshape(-1, 3)[used], self.x[::k, ::k, 0].ravel()[used].astype(np.float64)
        fitted = np.ones(len(b), bool)
        for _ in [None] * 6:
            plane = np.linalg.lstsq(a[fitted], b[fitted], rcond=None)[0]
            distance = np.abs(b - a @ plane)
            near = distance <= 2.5 * 1.4826 * np.median(distance[fitted])
            if near.sum() < 3 or (near == fitted).all():
                break
            fitted = near
        rest = self.x[..., 0] - terms @ plane
        self.x = np.clip(0.5 + rest / (2 * range), 0, 1)[..., None].astype(np.float32)
        self.bytes = False

    def percentiles(self, low: float, high: float, every: int) -> None:
        values = self.x[::every, ::every].astype(np.float32)
        if every > 1 and self.valid is not None:
            values = values[self.valid[::every, ::every]]
        bottom, top = np.percentile(values, [low, high])
        self.x = np.clip((self.x - bottom) / (top - bottom), 0, 1).astype(np.float32)
        self.bytes = False

    def round(self, type: str) -> None:
        self.x = np.clip(np.rint(self.x), 0, np.iinfo(type).max).astype(type)

    def fill_holes(self, round: bool) -> None:
        assert self.valid is not None
        kind = self.x.dtype
        values = np.where(self.valid[..., None], self.x, 0).astype(np.float32)
        filled = self._filled(values, self.valid.astype(np.float32))
        self.x = np.where(self.valid[..., None], self.x, (np.rint(filled) if round else filled).astype(kind))
        self.valid = None

    def _filled(self, values: Array, mask: Array) -> Array:
        """values: times the mask."""
        height, width, channels = values.shape
        known = np.divide(values, mask[..., None], out=np.zeros_like(values), where=mask[..., None] > 0)
        if (mask > 0).all():
            return known
        half = (math.ceil(width / 2), math.ceil(height / 2))
        small = [cv2.resize(a, half, interpolation=cv2.INTER_AREA) for a in (values, mask)]
        coarse = self._filled(small[0].reshape(half[1], half[0], channels), small[1])
        double = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
        return np.where(mask[..., None] > 0, known, double)

    def match_size(self, like: str, smooth: bool) -> None:
        if self.x.shape[:2] != self.size:
            assert not smooth
            assert self.valid is None
            resized = cv2.resize(self.x, self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            self.x = resized.reshape(*self.size, -1)

    def resize(self, short_side: int, multiple_of: int, weigh_holes: bool) -> None:
        s = short_side / min(self.x.shape[:2])
        height, width = (
            math.ceil(math.floor(n * s + 0.5) / multiple_of) * multiple_of for n in self.x.shape[:2]
        )  # fmt: skip
        if weigh_holes and self.valid is not None and (self.always_weighed or not self.valid.all()):
            values = np.where(self.valid[..., None], self.x, 0).astype(np.float32)
            mask = self.valid.astype(np.float32)
            values, mask = (cv2.resize(a, (width, height), interpolation=cv2.INTER_LINEAR) for a in (values, mask))
            values = values[..., None] if values.ndim == 2 else values
            self.valid = mask >= 0.5
            self.x = np.where(self.valid[..., None], values / np.maximum(mask, 0.5)[..., None], 0)
            if self.bytes:
                self.x = np.rint(self.x)
        else:
            resized = cv2.resize(self.x, (width, height), interpolation=cv2.INTER_LINEAR)
            self.x = resized[..., None] if resized.ndim == 2 else resized
            if self.valid is not None:
                self.valid = np.ones((height, width), bool)

    def zero_holes(self) -> None:
        assert self.valid is not None
        self.x = np.where(self.valid[..., None], self.x, 0)

    def divide(self, by: float) -> None:
        self.x = self.x / np.float64(by)

    def append_validity(self) -> None:
        assert self.valid is not None
        self.x = np.concatenate([self.x, self.valid[..., None]], axis=2)

    def standardise(self, mean: list[float], std: list[float]) -> None:
        self.x = (self.x - np.array(mean)) / np.array(std)

    def repeat_to(self, channels: int) -> None:
        self.x = np.repeat(self.x, channels, 2) if self.x.shape[2] == 1 else self.x
        assert self.x.shape[2] == channels

    def run(self, steps: list[dict[str, Any]]) -> Array:
        self.always_weighed = any(step["do"] == "append validity" for step in steps)
        for step in steps:
            settings = {key: value for key, value in step.items() if key != "do"}
            getattr(self, step["do"].replace(" ", "_").replace("-", "_"))(**settings)
        return self.x.transpose(2, 0, 1)


def check(data: RGBXDataModule, stated: dict[str, list[dict[str, Any]]]) -> None:
    files = files_of_first(data)
    tiled = TiledModel(tiny_model(), data, short_side=data.short_side)
    read = PictureReader(tiled)(PictureFiles("x", files).files, "x", backdrop=False)
    expected = normalize(read.inputs, data.modalities)
    arrays = {m: [array_in(path) for path in paths] for m, paths in files.items()}
    size = next(iter(arrays.values()))[0].shape[:2]
    assert list(stated) == list(expected)
    for modality, x in expected.items():
        found = Program(arrays[modality], (size[0], size[1])).run(stated[modality])
        assert float(x.std()) > 0.01
        np.testing.assert_allclose(found, x[0].numpy(), atol=2e-5, err_msg=modality)


def stated_in_bundle(folder: Path, settings: list[str]) -> tuple[RGBXDataModule, dict[str, Any], str]:
    """The data set, what config.json of a bundle says of its inputs, and the model card."""
    cfg = configured("train", [*settings, "dataset.num_workers=0", "run_dir=unused"])
    data = build_data(cfg)
    model = tiny_model()
    model.about = provenance(cfg, data, "0" * 64)
    save_bundle(model, folder)
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return data, about["preparation"], (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "layout", "setting"), FIXTURE_CASES)
def test_what_a_file_says_of_a_data_set_is_all_that_is_done(
    name: str, layout: str, setting: str, tmp_path: Path
) -> None:
    data, stated, card = stated_in_bundle(tmp_path / "b", fixture_data(tmp_path / "data", name, layout, setting))
    check(data, stated)
    for modality, steps in stated.items():
        listed = "\n".join(f"{i}. {in_words(step)}" for i, step in enumerate(steps, 1))
        assert f"**{modality}**\n\n{listed}\n" in card


@pytest.mark.parametrize("size", ["null", "64"])
@pytest.mark.parametrize("case", OWN_CASES)
def test_what_a_file_says_of_ones_own_sensor_is_all_that_is_done(case: str, size: str, tmp_path: Path) -> None:
    settings = own_data(tmp_path / "data", OWN_CASES[case], f"dataset.eval_size={size}")
    data, stated, _ = stated_in_bundle(tmp_path / "b", settings)
    check(data, stated)


def test_every_number_of_a_step_is_in_its_words() -> None:
    """What only the plain values said, nobody who reads the card would do."""
    steps = [
        {"do": "take", "factors": {"uint16": 0.001, "uint8": 1.0}, "others": True},
        {"do": "take", "factors": {"uint16": 0.25}, "others": False},
        {"do": "pick", "channels": [3, 1]},
        {"do": "multiply and add", "factor": [0.229], "add": [123.675]},
        {"do": "find holes", "value": 7},
        {"do": "stack files", "holes": -9999.0},
        {"do": "plane", "range": 20000.0},
        {"do": "percentiles", "low": 3.0, "high": 97.0, "every": 4},
        {"do": "resize", "short_side": 480, "multiple_of": 32, "weigh_holes": True},
        {"do": "match size", "like": "rgb", "smooth": False},
        {"do": "divide", "by": 65535.0},
        {"do": "standardise", "mean": [0.485, 0.25], "std": [0.229, 0.5]},
        {"do": "repeat to", "channels": 3},
    ]
    for step in steps:
        words = in_words(step)
        for key, value in step.items():
            values = value if isinstance(value, list) else [value]
            values = [*value.values(), *value] if isinstance(value, dict) else values
            for part in values:
                if key != "do" and not isinstance(part, bool) and part != 1.0:
                    assert (part if isinstance(part, str) else f"{part:.9g}") in words, (step, part)
    assert in_words({"do": "fill holes", "round": True}) != in_words({"do": "fill holes", "round": False})
    assert "NaN or infinite" in in_words({"do": "find holes", "value": "nan"})
    assert "else NaN" in in_words({"do": "stack files", "holes": "nan"})
    assert "holes" not in in_words({"do": "stack files", "holes": None})
    assert "GDAL_NODATA" in in_words({"do": "mark no-data"})
    assert in_words({"do": "resize"}) == "{'do': 'resize'}"
    assert in_words({"do": "polish"}) == "{'do': 'polish'}"


def test_a_checkpoint_of_an_earlier_version_is_shipped_with_what_its_configuration_says(tmp_path: Path) -> None:
    settings = own_data(tmp_path / "data", OWN_CASES["plane"], "dataset.eval_size=64")
    data = save(tmp_path / "now", settings)
    model = load_model(tmp_path / "now")
    config, stated = model.about["config"], model.about.pop("preparation")
    save_bundle(model, tmp_path / "before", run_config=config)
    assert "preparation" not in load_model(tmp_path / "before").about
    assert main(["bundle", str(tmp_path / "before"), str(tmp_path / "shipped")]) == 0
    assert load_model(tmp_path / "shipped").about["preparation"] == stated
    check(data, stated)
    save_bundle(model, tmp_path / "unknown", run_config=config.replace("FolderDataModule", "NothingOfThisName"))
    assert main(["bundle", str(tmp_path / "unknown"), str(tmp_path / "shipped2")]) == 0
    assert "How holes are treated" in (tmp_path / "shipped2" / "README.md").read_text()


def test_a_reader_that_does_not_say_what_it_does_is_named(tmp_path: Path) -> None:
    settings = own_data(tmp_path, OWN_CASES["zero"])
    data = build_data(configured("train", [*settings, "run_dir=unused"]))
    assert isinstance(data, FolderDataModule)
    data._readers = {**data._readers, "x": torch.nn.Identity()}
    assert preparation(data)["x"][0] == {"do": "read as", "name": "torch.nn.modules.linear.Identity"}
