"""A program that knows only what a file says of its inputs prepares what ktb prepares, for every data set and
treatment."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from ktb import load_model
from ktb.cli.model import main
from ktb.config.conf_folder import conf_dir
from ktb.data.arrays import InMemory
from ktb.data.label_size import LabelSizes, known
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.data.readers.image import DType, Holes, Normalise
from ktb.data.samples import FileSamples
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.folder_settings import FolderModality, checked_settings
from ktb.data.spec import normalize
from ktb.data.steps import in_words
from ktb.data.tools.fixtures import FIXTURES
from ktb.jobs.build import build_data
from ktb.jobs.provenance import provenance
from ktb.predict.pairing import PictureFiles
from ktb.predict.reading import PictureReader
from ktb.predict.tiled_model import TiledModel
from ktb.weights.bundle import save_bundle
from tests.ktb.jobs.saved import FIXTURE_CASES, OWN_CASES, array_in, files_of_first, fixture_data, own_data, plain, save
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
        planes = [cv2.resize(a, half, interpolation=cv2.INTER_AREA) for a in (*np.moveaxis(values, 2, 0), mask)]
        coarse = self._filled(np.stack(planes[:channels], axis=2), planes[-1])
        double = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
        return np.where(mask[..., None] > 0, known, double)

    def match_size(
        self, like: str, smooth: bool, of: str = "", scale: float | None = None, short_side: int | None = None
    ) -> None:
        assert (like == "label") == bool(of)
        size = self.size
        if like == "label":
            factor = scale or (short_side or 0) / min(size)
            size = (round(size[0] * factor), round(size[1] * factor))
        if self.x.shape[:2] == size:
            return
        if smooth:
            self._bilinear(size, whole=self.x.dtype.kind == "u")
            return
        assert self.valid is None
        self.x = cv2.resize(self.x, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).reshape(*size, -1)

    def resize(self, short_side: int, multiple_of: int, weigh_holes: bool) -> None:
        s = short_side / min(self.x.shape[:2])
        height, width = (
            math.ceil(math.floor(n * s + 0.5) / multiple_of) * multiple_of for n in self.x.shape[:2]
        )  # fmt: skip
        assert weigh_holes == (self.valid is not None)
        self._bilinear((height, width), whole=self.bytes)

    def _bilinear(self, size: tuple[int, int], *, whole: bool) -> None:
        if self.valid is not None and (self.always_weighed or not self.valid.all()):
            values = np.where(self.valid[..., None], self.x, 0).astype(np.float32)
            mask = self.valid.astype(np.float32)
            values, mask = (cv2.resize(a, size[::-1], interpolation=cv2.INTER_LINEAR) for a in (values, mask))
            values = values[..., None] if values.ndim == 2 else values
            self.valid = mask >= 0.5
            self.x = np.where(self.valid[..., None], values / np.maximum(mask, 0.5)[..., None], 0)
            if whole:
                self.x = np.rint(self.x)
        else:
            resized = cv2.resize(self.x, size[::-1], interpolation=cv2.INTER_LINEAR)
            self.x = resized[..., None] if resized.ndim == 2 else resized
            if self.valid is not None:
                self.valid = np.ones(size, bool)

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


def check(data: RGBXDataModule, about: Mapping[str, Any]) -> None:
    """What `about` states gives what `ktb-predict` feeds its model, which is what evaluation feeds it."""
    stated: dict[str, list[dict[str, Any]]] = about["preparation"]
    samples = data.dataset(data.spec.report_split)
    tiled = TiledModel(tiny_model(), data, short_side=data.short_side)
    read = PictureReader(tiled, label_sizes=known(about.get("label_size")))
    if isinstance(samples.samples, FileSamples):
        files = files_of_first(data)
        inputs = read(PictureFiles("x", files).files, "x", backdrop=False).inputs
        arrays = {m: [array_in(path) for path in paths] for m, paths in files.items()}
    else:
        images = samples.samples.read(0, [m.name for m in data.modalities]).images
        inputs = read({m: (InMemory(m, image),) for m, image in images.items()}, "x", backdrop=False).inputs
        arrays = {m: [image] for m, image in images.items()}
    if data.spec.name != "mcubes":  # whose evaluation drops a margin
        for modality, x in samples[0]["inputs"].items():
            np.testing.assert_array_equal(inputs[modality][0].numpy(), x.numpy(), modality)
    expected = normalize(inputs, data.modalities)
    size = next(iter(arrays.values()))[0].shape[:2]
    assert list(stated) == list(expected)
    for modality, x in expected.items():
        found = Program(arrays[modality], (size[0], size[1])).run(stated[modality])
        assert float(x.std()) > 0.01
        off = np.abs(found - x[0].numpy())
        # Of two whole numbers that a sum lies halfway between, the order of float32 additions decides.
        assert (off > 2e-5).mean() <= 0.01, modality
        spec = data.spec.modalities[modality]
        assert off.max() <= 2e-5 + 1.01 / spec.scale / min(spec.std), modality


def stated_in_bundle(folder: Path, settings: list[str]) -> tuple[RGBXDataModule, dict[str, Any], str]:
    """The data set, config.json of a bundle, and its model card."""
    cfg = configured("train", [*settings, "dataset.num_workers=0", "run_dir=unused"])
    data = build_data(cfg)
    model = tiny_model()
    model.about = provenance(cfg, data, "0" * 64)
    save_bundle(model, folder)
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return data, about, (folder / "README.md").read_text(encoding="utf-8")


ALL_LAYOUTS = [
    *FIXTURE_CASES,
    ("nyu", "three_columns", "depth_source=depth"),
    ("sunrgbd", "spaces", "eval_size=64"),
    ("mcubes", "flat", "eval_size=null"),
]


@pytest.mark.parametrize(("name", "layout", "setting"), ALL_LAYOUTS)
def test_what_a_file_says_of_a_data_set_is_all_that_is_done(
    name: str, layout: str, setting: str, tmp_path: Path
) -> None:
    data, about, card = stated_in_bundle(tmp_path / "b", fixture_data(tmp_path / "data", name, layout, setting))
    check(data, about)
    for modality, steps in about["preparation"].items():
        listed = "\n".join(f"{i}. {in_words(step)}" for i, step in enumerate(steps, 1))
        assert f"**{modality}**\n\n{listed}\n" in card


def test_so_is_what_it_says_of_the_sets_without_a_fixture(tmp_path: Path) -> None:
    scenes = ["dataset=synthetic", "dataset.train=2", "dataset.test=1"]
    cases = [scenes, [*scenes, "dataset.eval_size=64"], potholes(tmp_path / "data")]
    for i, settings in enumerate(cases):
        data, about, _ = stated_in_bundle(tmp_path / f"b{i}", settings)
        check(data, about)


def potholes(root: Path) -> list[str]:
    own_data(root, OWN_CASES["plane"])
    (root / "x").rename(root / "disparity")
    for file in (root / "disparity").iterdir():
        Image.fromarray(array_in(file) * np.uint16(20)).save(file)
    for split, number in (("train", 0), ("val", 1)):
        (root / f"{split}.txt").write_text(f"{number}\n")
    return ["dataset=potholes", f"dataset.root={root}"]


def test_every_data_set_and_every_treatment_is_among_them() -> None:
    of_ktb = {file.stem for file in (conf_dir() / "dataset").glob("*.yaml")}
    assert of_ktb == {name for name, *_ in FIXTURE_CASES} | {"folder", "synthetic", "potholes"}
    layouts = {name: set(layouts) for name, (_, layouts, _) in FIXTURES.items()}
    # Other names of the same files, and other ways to list them.
    same = {("nyu", "spaces"), ("nyu", "stems"), ("sunrgbd", "tabs"), ("mfnet", "capitals"), ("mcubes", "nested")}
    tried = {(name, layout) for name, layout, _ in ALL_LAYOUTS}
    assert {(name, layout) for name, of_one in layouts.items() for layout in of_one} - same == tried
    own = [
        checked_settings(FolderModality, yaml.safe_load(f"{{files: 'x/*', {plain(case)}}}"), "x")
        for case in OWN_CASES.values()
    ]
    assert {(m.holes, m.normalise) for m in own} == {(h, n) for h in get_args(Holes) for n in get_args(Normalise)}
    assert {m.dtype for m in own} == set(get_args(DType))
    for kind in ("tif", "parts", "half"):
        assert {m.holes for m, case in zip(own, OWN_CASES.values(), strict=True) if kind in case} == set(
            get_args(Holes)
        )


@pytest.mark.parametrize("size", ["null", "64"])
@pytest.mark.parametrize("case", OWN_CASES)
def test_what_a_file_says_of_ones_own_sensor_is_all_that_is_done(case: str, size: str, tmp_path: Path) -> None:
    settings = own_data(tmp_path / "data", OWN_CASES[case], f"dataset.eval_size={size}")
    data, about, _ = stated_in_bundle(tmp_path / "b", settings)
    check(data, about)


@pytest.mark.parametrize("case", ["zero", "half fill", "half validity", "files"])
def test_so_is_what_it_says_where_pictures_are_resized_to_labels(case: str, tmp_path: Path) -> None:
    settings = own_data(tmp_path / "data", OWN_CASES[case], "dataset.resize=label")
    data, about, card = stated_in_bundle(tmp_path / "b", settings)
    check(data, about)
    assert card.count("(the label's sides are those of rgb times 1.6, rounded)") == 2


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
        {"do": "match size", "like": "label", "smooth": True, "of": "thermal", "scale": 0.75},
        {"do": "match size", "like": "label", "smooth": True, "of": "thermal", "short_side": 512},
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
    check(data, {"preparation": stated})
    save_bundle(model, tmp_path / "unknown", run_config=config.replace("FolderDataModule", "NothingOfThisName"))
    assert main(["bundle", str(tmp_path / "unknown"), str(tmp_path / "shipped2")]) == 0
    assert "How holes are treated" in (tmp_path / "shipped2" / "README.md").read_text()


def test_a_reader_that_does_not_say_what_it_does_is_named(tmp_path: Path) -> None:
    settings = own_data(tmp_path, OWN_CASES["zero"])
    data = build_data(configured("train", [*settings, "run_dir=unused"]))
    assert isinstance(data, FolderDataModule)
    data._readers = {**data._readers, "x": torch.nn.Identity()}
    assert preparation(data, LabelSizes())["x"][0] == {"do": "read as", "name": "torch.nn.modules.linear.Identity"}
