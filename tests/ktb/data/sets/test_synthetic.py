"""The synthetic data set: its splits, its samples, its settings, the weights that come with it."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from ktb.config.compose import conf_dir
from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import CLASSES, FLOOR, LIGHTS, WALL, sample_scene
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.errors import ConfigError
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from tests.ktb.data.scenes.rooms import SIZE, render


def defaults() -> dict[str, object]:
    return yaml.safe_load((conf_dir() / "dataset/synthetic.yaml").read_text())


def module(**options) -> SyntheticDataModule:
    return SyntheticDataModule(**{"streams": ["rgb", "depth"], "num_workers": 0, "size": SIZE, **options})


def test_no_two_splits_share_a_scene() -> None:
    count = 30
    seen = {
        draw(sample_scene(samples.seed, i), 32, 32).rgb.tobytes()
        for scene_seed in (0, 1)
        for split in ("train", "val", "test")
        for samples in [module(scene_seed=scene_seed).open_split(split)]
        for i in range(count)
    }
    assert len(seen) == 2 * 3 * count


def test_every_class_occurs_in_the_default_test_split() -> None:
    samples = module(test=defaults()["test"]).open_split("test")
    labels = np.stack([samples.read(i, ["depth"]).label for i in range(len(samples))])
    share = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    pictures = [(labels == k).any((1, 2)).mean() for k in range(len(CLASSES))]
    assert len(share) == len(CLASSES)  # no label beyond the classes
    assert (np.delete(share, [FLOOR, WALL]) > 0.005).all(), share
    assert max(share[[FLOOR, WALL]]) < 0.5
    assert min(pictures) > 0.12, pictures


def test_samples_and_batches() -> None:
    data = module(train=12, val=3, test=5, batch_size=4, eval_batch_size=5)
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert {name: (x.shape, x.dtype) for name, x in batch["inputs"].items()} == {
        "rgb": ((5, 3, *SIZE), torch.uint8),
        "depth": ((5, 1, *SIZE), torch.uint8),
    }
    assert batch["id"] == [f"test/{i:05d}" for i in range(5)]
    assert all(c["light"] in LIGHTS for c in batch["condition"])
    frame = render(2, 4, *SIZE)  # the third of three splits, scene 4
    assert np.array_equal(batch["inputs"]["rgb"][4].permute(1, 2, 0), frame.rgb)
    assert np.array_equal(batch["inputs"]["depth"][4, 0], frame.depth)
    assert np.array_equal(batch["label"][4], frame.label)
    assert len(data.train_dataloader()) == 3
    assert len(data.val_dataloader()) == 1


def test_what_is_kept_in_memory_cannot_be_changed_through_a_sample() -> None:
    dataset = module(val=2).dataset("val")
    before = {k: v.clone() for k, v in dataset[1]["inputs"].items()}, dataset[1]["label"].clone()
    sample = dataset[1]
    for tensor in (*sample["inputs"].values(), sample["label"]):
        tensor.fill_(9)
    again = dataset[1]
    assert all(torch.equal(again["inputs"][k], v) for k, v in before[0].items())
    assert torch.equal(again["label"], before[1])


def test_memory_for_drawn_scenes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktb.data.sets.synthetic.CACHE_BYTES", 2 * 5 * SIZE[0] * SIZE[1])
    samples = module(val=4).open_split("val")
    first = [samples.read(i, ["rgb"]) for i in range(4)]
    assert len(samples._kept) == 2
    assert all(np.array_equal(samples.read(i, ["rgb"]).images["rgb"], first[i].images["rgb"]) for i in range(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": [31, 64]}, r"dataset.size is \[31, 64\]; expected \[height, width\], both 32 or more"),
        ({"size": [64]}, r"dataset.size is \[64\]"),
        ({"train": 0}, "dataset.train is 0; expected the number of its scenes, 1 or more"),
        ({"test": -1}, "dataset.test is -1"),
        ({"scene_seed": -1}, "dataset.scene_seed is -1; expected 0 or more"),
        ({"streams": ["thermal"]}, "synthetic has no modality 'thermal'"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module(**options)


def test_bundled_weights_fit_the_config_and_say_where_they_come_from() -> None:
    file = Path(str(files("ktb") / "weights" / "swin_nano.safetensors"))
    assert file.stat().st_size <= 4_000_000
    backbone = yaml.safe_load((conf_dir() / "backbone/swin_nano.yaml").read_text())
    arch = SwinArch.from_dict({k: backbone[k] for k in SwinArch.__dataclass_fields__})
    expected = {name: tuple(t.shape) for name, t in FrozenSwin(arch).state_dict().items()}
    with safe_open(file, "pt") as content:
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        metadata = content.metadata()
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected
    assert all(bool(torch.isfinite(t).all()) for t in tensors.values())
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert metadata["made_by"] == "scripts/make_swin_nano.py"
    assert {"seed", "steps", "date", "versions", "wall_seconds", "data", "license"} <= set(metadata)
    built = SwinArch.from_dict(json.loads(metadata["architecture"]))
    assert replace(built, drop_path=arch.drop_path) == arch
    trained, untrained = json.loads(metadata["probe"]), json.loads(metadata["probe_random_init"])
    assert trained["thing"] > untrained["thing"] + 0.3
    assert all(trained[task] > untrained[task] for task in untrained)
