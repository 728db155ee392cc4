"""Fixtures have the real layouts, and every layout of every data set loads, each modality alone and all together."""

from __future__ import annotations

import errno
import hashlib
import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ktb.config.compose import conf_dir
from ktb.data.module import RGBXDataModule
from ktb.data.spec import IGNORE
from ktb.data.tools import fixtures
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.errors import ConfigError, DataError

LAYOUTS = [(name, layout) for name, (_, layouts, _) in FIXTURES.items() for layout in layouts]
HAVE_VOID = ("nyu", "sunrgbd", "mcubes", "deliver")


def open_module(name: str, root: Path, **options) -> RGBXDataModule:
    module, _, cls = yaml.safe_load((conf_dir() / f"dataset/{name}.yaml").read_text())["_target_"].rpartition(".")
    data_module = getattr(importlib.import_module(module), cls)
    return data_module(root, **{"streams": ["rgb"], "num_workers": 0, **options})


def options_of(layout: str) -> dict[str, str]:
    # This form of NYU comes without HHA.
    return {"depth_source": "depth"} if layout == "three_columns" else {}


def files(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


STEM = "outscene1208_0_0000000000"
ONE_TRAINING_SAMPLE = {
    ("nyu", "tabs"): ["RGB/0.jpg", "HHA/0.jpg", "Depth/0.npy", "Label/0.png"],
    ("nyu", "three_columns"): ["rgb/000001.png", "masks/000001.png", "depth/000001.png"],
    ("sunrgbd", "spaces"): ["RGB/train_0.jpg", "Depth/train_0.png", "labels/train_0.png"],
    ("mfnet", "folders"): ["rgb/00001D.png", "ther/00001D.png", "labels/00001D.png"],
    ("mfnet", "rgba"): ["images/00001D.png", "labels/00001D.png"],
    ("mfnet", "capitals"): ["RGB/00001D.jpg", "Thermal/00001D.jpg", "Label/00001D.png"],
    ("pst900", "folders"): [
        f"train/{folder}/1_bag1a_rect_rgb_frame0000000000.png"
        for folder in ("rgb", "thermal", "thermal_raw", "depth", "labels")
    ],
    ("mcubes", "nested"): [
        *(f"multimodal_dataset/{f}/{STEM}.png" for f in ("polL_color", "NIR_warped", "NIR_warped_mask")),
        *(f"multimodal_dataset/{f}/{STEM}.png" for f in ("GT", "SS", "SSGT4MS")),
        *(f"multimodal_dataset/{f}/{STEM}.npy" for f in ("polL_aolp_sin", "polL_aolp_cos", "polL_dolp")),
    ],
    ("deliver", "folders"): [
        f"{folder}/cloud/train/MAP_10_point102/045050_{kind}_front.png"
        for folder, kind in {
            **{f: f for f in ("depth", "event", "lidar", "semantic")},
            "img": "rgb",
            "hha": "depth",
        }.items()
    ],
}
LISTS = {
    "mcubes": [f"multimodal_dataset/list_folder/{s}.txt" for s in ("train", "val", "test", "all")],
    "pst900": [],
    "deliver": [],
}


@pytest.mark.parametrize(("name", "layout"), ONE_TRAINING_SAMPLE)
def test_one_sample_makes_exactly_these_files(tmp_path, name, layout):
    splits = FIXTURES[name][2]
    make_fixture(name, tmp_path / "data", layout=layout, counts={s: int(s == "train") for s in splits}, size=(32, 40))
    lists = LISTS.get(name, [f"{split}.txt" for split in splits])
    assert sorted(files(tmp_path / "data")) == sorted(ONE_TRAINING_SAMPLE[name, layout] + lists)


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_layout_loads_whole_and_by_single_modalities(tmp_path, name, layout):
    root = make_fixture(name, tmp_path / "data", layout=layout, size=(40, 64))
    every = open_module(name, root, **options_of(layout))
    seen: set[int] = set()
    for streams in ([*every.spec.modalities], *([m] for m in every.spec.modalities)):
        data = open_module(name, root, streams=streams, crop=(32, 48), **options_of(layout))
        for split in data.spec.splits:
            dataset = data.dataset(split)
            assert len(dataset) == 4
            samples = [dataset[i] for i in range(4)]
            assert len({s["id"] for s in samples}) == 4
            for sample in samples:
                assert list(sample["inputs"]) == streams
                height, width = sample["label"].shape
                for name_, stored in sample["inputs"].items():
                    assert stored.shape[1:] == (height, width)
                    assert stored.dtype in (torch.uint8, torch.float32)
                    ready = data.spec.modalities[name_].normalize(stored[None])
                    assert ready.shape == (1, 3, height, width)
                    assert ready.isfinite().all()
                    low, high = {"rgb": (-2.2, 2.7), "aolp": (-1, 1), "dolp": (-2.7, 2.5)}.get(name_, (0, 1))
                    assert low <= ready.min() < ready.max() <= high
                seen |= set(sample["label"].unique().tolist())
            train = data.dataset(split, train=True)[(1, 2)]
            assert {x.shape[1:] for x in train["inputs"].values()} | {train["label"].shape} == {(32, 48)}
    assert seen == set(range(every.spec.num_classes)) | ({IGNORE} if name in HAVE_VOID else set())


def test_the_seed_decides_every_byte(tmp_path):
    for name in FIXTURES:
        counts = dict.fromkeys(FIXTURES[name][2], 1)
        a, b, c = (
            files(make_fixture(name, tmp_path / name / folder, counts=counts, size=(32, 32), seed=seed))
            for folder, seed in (("a", 1), ("b", 1), ("c", 2))
        )
        assert a == b
        assert a.keys() == c.keys()
        assert a != c


def test_labels_go_with_all_pictures(tmp_path):
    """A class has one look per modality, so that a model can learn it: within-class spread is small."""
    data = open_module("mfnet", make_fixture("mfnet", tmp_path / "d", size=(64, 64)), streams=["rgb", "thermal"])
    means: dict[int, list[np.ndarray]] = {}
    for i in range(4):
        sample = data.dataset("train")[i]
        stacked = torch.cat([sample["inputs"]["rgb"], sample["inputs"]["thermal"]]).float().numpy()
        for k in np.unique(sample["label"]):
            means.setdefault(int(k), []).append(stacked[:, sample["label"].numpy() == k].mean(1))
    assert len(means) == 9
    assert max(np.ptp(np.array(values), axis=0).max() for values in means.values()) < 12
    centres = np.array([np.mean(values, axis=0) for values in means.values()])
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1)[~np.eye(9, dtype=bool)]
    assert distances.min() > 15


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "kitti"}, ConfigError, "no fixture of data set 'kitti'; there are nyu, sunrgbd"),
        ({"layout": "zip"}, ConfigError, "mfnet has no layout 'zip'; it has folders, rgba, capitals"),
        ({"counts": {"dev": 1}}, ConfigError, "mfnet has no split 'dev'; it has train, val, test"),
        ({"size": (16, 64)}, ConfigError, r"\(16, 64\); expected \(height, width\) of 32 or more"),
        ({"root": "."}, DataError, "not an empty folder"),
    ],
)
def test_what_cannot_be_made(tmp_path, arguments, error, message):
    (tmp_path / "file").touch()
    root = tmp_path / arguments.pop("root", "new")
    with pytest.raises(error, match=message):
        make_fixture(**{"name": "mfnet", "root": root, **arguments})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


RECIPES = {  # docs/method.md#recipe: training crop, evaluation size, epochs, learning rate, weight decay, loss
    "nyu": ([480, 640], [480, 640], 400, 4e-4, 0.01, "ce"),
    "sunrgbd": ([480, 480], 480, 300, 4e-4, 0.01, "ce"),
    "mfnet": ([480, 640], [480, 640], 200, 8e-5, 5e-4, "ce"),
    "pst900": ([480, 640], [720, 1280], 200, 6e-4, 0.01, "ce"),
    "mcubes": ([512, 512], [1024, 1024], 500, 6e-5, 0.01, "ohem"),
    "deliver": ([768, 768], [1024, 1024], 200, 2e-4, 0.01, "ce"),
}
PROTOCOLS = {  # docs/datasets.md: classes, published counts, split the best checkpoint is chosen on, split reported on
    "nyu": (40, {"train": 795, "test": 654}, "test", "test"),
    "sunrgbd": (37, {"train": 5285, "test": 5050}, "test", "test"),
    "mfnet": (9, {"train": 784, "val": 392, "test": 393}, "val", "test"),
    "pst900": (5, {"train": 597, "test": 288}, "test", "test"),
    "mcubes": (20, {"train": 302, "val": 96, "test": 102}, "val", "test"),
    "deliver": (25, {"train": 3983, "val": 2005, "test": 1897}, "val", "val"),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_configs_hold_the_published_recipe_and_protocol(tmp_path, name):
    config = yaml.safe_load((conf_dir() / f"dataset/{name}.yaml").read_text())
    crop, eval_size, epochs, lr, weight_decay, loss = RECIPES[name]
    assert (config["crop"], config["eval_size"], config["batch_size"]) == (crop, eval_size, 4)
    assert config["recipe"] == {
        "epochs": epochs, "lr": lr, "weight_decay": weight_decay, "warmup_epochs": 10, "pixel_loss": loss,
    }  # fmt: skip
    classes, counts, selection, report = PROTOCOLS[name]
    spec = open_module(name, tmp_path).spec
    assert (spec.num_classes, len(set(spec.classes)), len(set(spec.palette))) == (classes, classes, classes)
    assert dict(spec.counts) == counts
    assert set(spec.splits) == set(counts)
    for source in (spec, config):
        values = (source if isinstance(source, dict) else vars(source)) | {"name": name}
        assert (values["selection_split"], values["report_split"]) == (selection, report)
    assert set(config["default_streams"]) <= set(spec.modalities)
    modality = yaml.safe_load((conf_dir() / f"modality/{config['default_modality']}.yaml").read_text())
    assert modality["streams"] == config["default_streams"]


@pytest.mark.parametrize("there", [False, True])
def test_a_fixture_that_cannot_be_finished_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    root, written = tmp_path / "data", []

    def full(path: Path, lines: list[str]) -> None:
        written.extend(root.rglob("*.*"))
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if there:
        root.mkdir()
    monkeypatch.setattr(fixtures, "_write_list", full)
    with pytest.raises(OSError, match="No space left"):
        fixtures.make_fixture("nyu", root, counts={"train": 1, "test": 1}, size=(32, 32))
    assert written
    assert list(tmp_path.iterdir()) == [root] * there
    assert not there or not any(root.iterdir())
