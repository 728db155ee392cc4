"""The synthetic scenes are what they claim: deterministic, disjoint, each sensor blind exactly where it should be."""

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
from ktb.data.scenes.draw import NEAR, Frame, draw
from ktb.data.scenes.scene import (
    BALL,
    CLASSES,
    CRATE,
    FLOOR,
    LIGHTS,
    LOCKER,
    PIT,
    PRINT,
    RUG,
    SCREEN,
    STEP,
    WALL,
    Scene,
    sample_scene,
)
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.errors import ConfigError
from ktb.models.backbones.swin import FrozenSwin, SwinArch

SIZE = (96, 128)


def defaults() -> dict[str, object]:
    return yaml.safe_load((conf_dir() / "dataset/synthetic.yaml").read_text())


def module(**options) -> SyntheticDataModule:
    return SyntheticDataModule(**{"streams": ["rgb", "depth"], "num_workers": 0, "size": SIZE, **options})


def render(seed: int, index: int, height: int, width: int) -> Frame:
    return draw(sample_scene(seed, index), height, width)


def bare(scene: Scene, **changes) -> Scene:
    """The empty room of a scene, in daylight, all depth measured, plus what `changes` puts there."""
    return replace(scene, **{"rugs": (), "things": (), "light": "day", "dropouts": (), **changes})


def scenes_with(kind: int, count: int) -> list[tuple[Scene, object]]:
    """`count` scenes and a real thing of that kind in each, seen well enough to be tested."""
    found = []
    for index in range(2000):
        scene = sample_scene(7, index)
        for thing in (*scene.rugs, *scene.things):
            alone = bare(scene, **({"rugs": (thing,)} if kind == RUG else {"things": (replace(thing, printed=False),)}))
            if thing.kind == kind and (draw(alone, *SIZE).label == kind).mean() > 0.01:
                found.append((alone, replace(thing, printed=False)))
                break
        if len(found) == count:
            return found
    raise AssertionError(f"too few scenes show a {CLASSES[kind]}")


# --- determinism ----------------------------------------------------------------------------------------------------


def test_a_scene_is_a_function_of_seed_and_index_alone() -> None:
    first = render(3, 5, *SIZE)
    render(3, 6, 64, 64)
    again = render(3, 5, *SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [a.dtype for a in first] == [np.uint8] * 3
    assert [a.shape for a in first] == [(*SIZE, 3), SIZE, SIZE]
    for other in (render(3, 6, *SIZE), render(4, 5, *SIZE)):
        assert (first.rgb != other.rgb).mean() > 0.5


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


@pytest.mark.parametrize("size", [(192, 256), (48, 64), (144, 192)])
def test_the_geometry_does_not_depend_on_the_size(size: tuple[int, int]) -> None:
    rows, columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in zip((24, 32), size, strict=True))
    base_rows, base_columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in zip((24, 32), SIZE, strict=True))
    agreement, depth_error = [], []
    for index in range(20):
        base, other = render(1, index, *SIZE), render(1, index, *size)
        same = base.label[np.ix_(base_rows, base_columns)] == other.label[np.ix_(rows, columns)]
        difference = base.depth[np.ix_(base_rows, base_columns)].astype(int) - other.depth[np.ix_(rows, columns)]
        agreement.append(same.mean())
        depth_error.append(np.median(np.abs(difference)))
    assert np.mean(agreement) > 0.96
    assert max(depth_error) <= 2


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (32, 200), (200, 32)])
def test_any_size_from_32_up(size: tuple[int, int]) -> None:
    frame = render(0, 0, *size)
    assert frame.rgb.shape == (*size, 3)
    assert frame.label.max() < len(CLASSES)


# --- what each sensor sees ------------------------------------------------------------------------------------------


def test_depth_is_inverse_distance() -> None:
    """On the floor below the camera axis, z follows from the camera height and the row alone."""
    scene = bare(sample_scene(0, 3), wall_distance=50.0, side_distance=50.0)
    height, width = 200, 200
    frame = draw(scene, height, width)
    row = 190
    v = (row + 0.5 - height / 2) / (1.4 * height / 2)
    z = scene.camera_height / (np.sin(scene.pitch) + v * np.cos(scene.pitch))
    assert frame.label[row, 100] == FLOOR
    assert np.mean(frame.depth[row]) == pytest.approx(min(255 * NEAR / z, 255), abs=0.5)


@pytest.mark.parametrize("kind", [CRATE, LOCKER, BALL, STEP, PIT, SCREEN])
def test_a_print_has_the_rgb_of_the_thing_and_the_depth_of_what_it_lies_on(kind: int) -> None:
    for scene, thing in scenes_with(kind, 8):
        real = draw(scene, *SIZE)
        printed = draw(replace(scene, things=(replace(thing, printed=True),)), *SIZE)
        empty = draw(replace(scene, things=()), *SIZE)
        assert np.array_equal(printed.rgb, real.rgb)
        assert np.array_equal(printed.depth, empty.depth)
        assert np.array_equal(printed.label == PRINT, real.label == kind)
        there = real.label == kind
        assert np.abs(real.depth[there].astype(int) - empty.depth[there]).mean() > 4
        assert np.array_equal(real.depth[~there], empty.depth[~there])


def test_a_rug_is_in_rgb_only() -> None:
    for scene, _ in scenes_with(RUG, 8):
        laid, empty = draw(scene, *SIZE), draw(replace(scene, rugs=()), *SIZE)
        there = laid.label == RUG
        assert np.array_equal(laid.depth, empty.depth)
        assert np.array_equal(laid.rgb[~there], empty.rgb[~there])
        assert np.abs(laid.rgb[there].astype(int) - empty.rgb[there]).mean() > 10
        assert set(empty.label[there]) == {FLOOR}


def test_crate_and_locker_have_one_shape_and_two_looks() -> None:
    things = [t for i in range(800) for t in sample_scene(0, i).things]
    shape = {k: np.array([(t.a, t.c, t.height) for t in things if t.kind == k]) for k in (CRATE, LOCKER)}
    colour = {k: np.array([t.material.bright for t in things if t.kind == k]) for k in (CRATE, LOCKER)}
    error = np.sqrt(sum(s.var(0) / len(s) for s in shape.values()))
    assert (np.abs(shape[CRATE].mean(0) - shape[LOCKER].mean(0)) < 3.5 * error).all()
    assert np.allclose(shape[CRATE].std(0), shape[LOCKER].std(0), rtol=0.12)
    # crates are redder than blue, lockers bluer than red, every one of them
    assert (colour[CRATE][:, 0] > colour[CRATE][:, 2]).all()
    assert (colour[LOCKER][:, 2] > colour[LOCKER][:, 0]).all()


def test_step_and_pit_wear_the_floor() -> None:
    for index in range(60):
        scene = sample_scene(0, index)
        assert all(t.material == scene.floor for t in scene.things if t.kind in (STEP, PIT))


def test_depth_is_missing_on_screens_and_in_dropouts_and_nowhere_else() -> None:
    holes = 0
    for index in range(40):
        scene = sample_scene(2, index)
        frame = draw(replace(scene, dropouts=()), *SIZE)
        assert np.array_equal(frame.depth == 0, frame.label == SCREEN)
        full = draw(scene, *SIZE)
        lost = (full.depth == 0) & (full.label != SCREEN)
        rows, columns = np.nonzero(lost)
        y, x = (rows + 0.5) / SIZE[0] * 2 - 1, (columns + 0.5) / SIZE[1] * 2 - 1
        inside = np.zeros(len(rows), bool)
        for cx, cy, wide, high in scene.dropouts:
            inside |= (np.abs(x - cx) < wide) & (np.abs(y - cy) < high)
        assert inside.all()
        holes += len(rows)
    assert 0.02 < holes / (40 * SIZE[0] * SIZE[1]) < 0.12


def test_dark_hides_rgb_and_glare_blinds_it() -> None:
    scene = bare(sample_scene(0, 1))
    day, dark, glare = (draw(replace(scene, light=light), *SIZE) for light in LIGHTS)
    assert dark.rgb.mean() < 0.6 * day.rgb.mean()
    assert (glare.rgb.min(-1) > 250).mean() > 0.02 > (day.rgb.min(-1) > 250).mean()
    assert np.array_equal(day.depth, dark.depth)
    assert np.array_equal(day.depth, glare.depth)


def test_every_class_occurs_in_the_default_test_split() -> None:
    samples = module(test=defaults()["test"]).open_split("test")
    labels = np.stack([samples.read(i, ["depth"]).label for i in range(len(samples))])
    share = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
    pictures = [(labels == k).any((1, 2)).mean() for k in range(len(CLASSES))]
    assert len(share) == len(CLASSES)  # no label beyond the classes
    assert (share[[RUG, PRINT, CRATE, LOCKER, BALL, STEP, PIT, SCREEN]] > 0.005).all(), share
    assert max(share[[FLOOR, WALL]]) < 0.5
    assert min(pictures) > 0.12, pictures


# --- data module ----------------------------------------------------------------------------------------------------


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


# --- bundled weights ------------------------------------------------------------------------------------------------


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
