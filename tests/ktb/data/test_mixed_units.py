"""Files in another unit than the rest are noticed; other scenes, nights and sparse sensors are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ktb.data.magnitudes import mixed
from ktb.data.mixed_units import Mixed, Picture, mixed_units, picture
from ktb.data.sets.folder import FolderDataModule
from ktb.errors import DataError
from tests.ktb.data.test_magnitudes import SIZE, scene
from tests.ktb.data.tools.check.reports import report_of


def seen(values: Sequence[float] | np.ndarray, stored: str = "float32", name: str = "x") -> Picture:
    found = picture(name, stored, np.abs(np.asarray(values, np.float32)))
    assert found is not None
    return found


def depths(*units: tuple[str, float], seed: int = 0) -> list[Picture]:
    """One picture per unit, which is the type of its file and what a millimetre becomes in it."""
    made = []
    for i, (stored, factor) in enumerate(units):
        values = scene(seed + i) * factor
        made.append(seen(values[values > 0], stored, f"depth/{i:02}"))
    return made


MILLIMETRES, METRES, EIGHT_BITS = ("uint16", 1.0), ("float32", 1e-3), ("uint8", 255 / 8000)


def test_metres_among_millimetres_are_named_with_numbers_and_examples():
    found = mixed_units("depth", depths(*[MILLIMETRES] * 5, METRES, METRES))
    assert found is not None
    least = min(p.most for p in depths(*[MILLIMETRES] * 5))
    assert found.text.startswith("depth: files in two units or bit depths? 2 reach ")
    assert "(float32; such as depth/05) and 5 reach" in found.text
    assert f"{least:.5g} to" in found.text
    assert found.text.endswith("(uint16; such as depth/00): bring them to one unit")
    assert found.certain  # another type, a thousand times less


@pytest.mark.parametrize("count", [1, 5, 9])
def test_the_share_of_files_does_not_matter(count):
    units = [("float32", 1.0)] * (10 - count) + [METRES] * count
    found = mixed_units("depth", depths(*units))
    assert found is not None
    assert not found.certain  # one type


def test_eight_bits_among_millimetres():
    found = mixed_units("depth", depths(*[MILLIMETRES] * 4, *[EIGHT_BITS] * 4))
    assert found is not None
    assert not found.certain  # some thirty times less


def test_reflectance_of_1_and_of_255():
    rng = np.random.default_rng(0)
    pictures = [seen(rng.beta(2, 5, 900) * (255 if i % 3 else 1)) for i in range(9)]
    assert mixed_units("nir", pictures) is not None


def test_two_scales_of_a_thermal_camera():
    rng = np.random.default_rng(0)
    raw = [seen(rng.normal(8000 + 50 * i, 120, 900), "uint16") for i in range(4)]
    centikelvin = [seen(rng.normal(29500 + 90 * i, 150, 900), "uint16") for i in range(4)]
    assert mixed_units("thermal", raw + centikelvin) is not None
    assert mixed_units("thermal", raw) is None


@pytest.mark.parametrize(
    "pictures",
    [
        [],
        [seen([0.0] * 99), seen([5.0] * 99)],  # nothing to compare with
        [seen(np.full(99, v), "uint8") for v in (255, 250, 240, 21)],  # a night
        [seen(np.full(99, v), "uint16") for v in (255, 200, 180, 160)] + [seen(np.full(99, 240), "uint8")],
        depths(*[MILLIMETRES] * 9),
        [seen(scene(i, near=300, far=900 * 1.5**i)) for i in range(8)],  # from a desk to a street
        # An event camera: hardly an event in most pictures, but each as large as any.
        [seen([1.0] * (985 if i % 2 else 800) + [255.0] * (15 if i % 2 else 200)) for i in range(8)],
    ],
    ids=["none", "black", "night", "8 bits in 16", "one unit", "scenes", "events"],
)
def test_what_scenes_explain_is_not_remarked_on(pictures):
    assert mixed_units("x", pictures) is None


def folder(root, arrays, suffix="npy", **settings):
    for name in ("depth", "label"):
        (root / name).mkdir()
    for i, array in enumerate(arrays):
        np.save(root / f"depth/{i}.npy", array)
        np.save(root / f"label/{i}.npy", np.zeros(SIZE, np.uint8))
    return FolderDataModule(
        root,
        modalities={"depth": {"files": "depth/*.npy", "dtype": "float32", "hole_value": 0, **settings}},
        label={"files": "label/*.npy"},
        classes=["a"],
        splits={"train": 0.5, "val": 0.5},
        streams=["depth"],
        num_workers=0,
    )


def by_turns(i: int) -> np.ndarray:
    return scene(i).astype(np.uint16) if i % 4 else (scene(i) / 1000).astype(np.float32)


def test_the_files_of_both_splits_of_a_training_are_compared(tmp_path):
    data = folder(tmp_path, [by_turns(i) for i in range(8)])
    (found,) = mixed(data, ("train", "val"))
    assert isinstance(found, Mixed)
    assert found.certain
    assert "? 2 reach" in found.text
    assert "(float32; such as depth/0.npy) and 6 reach" in found.text


def test_check_fails_where_it_is_certain_and_remarks_where_it_is_not(tmp_path):
    (tmp_path / "a").mkdir()
    report = report_of(folder(tmp_path / "a", [by_turns(i) for i in range(8)]))
    assert [text[:40] for text in report["failures"]] == ["depth: files in two units or bit depths?"]
    (tmp_path / "b").mkdir()
    report = report_of(folder(tmp_path / "b", [by_turns(i).astype(np.float32) for i in range(8)]))
    assert report["failures"] == []
    assert any(text.startswith("depth: files in two units or bit depths? 2 reach") for text in report["findings"])


def test_a_file_that_cannot_be_read_is_known_before_the_training(tmp_path):
    data = folder(tmp_path, [by_turns(1) for _ in range(8)])
    (tmp_path / "depth/3.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"depth/3\.npy"):
        mixed(data, ("train", "val"))


def test_percentiles_of_each_picture_have_no_unit(tmp_path):
    data = folder(tmp_path, [by_turns(i) for i in range(8)], normalise="percentile")
    assert mixed(data, ("train", "val")) == []
