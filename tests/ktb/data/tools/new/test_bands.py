"""Which files, one band each, are taken for one modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ktb.data.tools.new.words import band_of
from tests.ktb.data.tools.new.folders import SIZE, label, look, modalities, opened
from tests.ktb.data.written import save


def test_words_of_bands_and_their_order() -> None:
    words = ["_B8A", "band_4", "b02", "B12", "_b8"]
    assert sorted(words, key=lambda w: band_of(w) or (0, "")) == ["b02", "band_4", "_b8", "_B8A", "B12"]
    named = ["nir", "Red", "green_", "blue", "RedEdge"]
    assert sorted(named, key=lambda w: band_of(w) or (0, "")) == ["blue", "green_", "Red", "RedEdge", "nir"]
    assert [band_of(w) for w in ("rgb", "depth", "b", "bands", "")] == [None] * 5


def write(root: Path, names: dict[str, tuple[int, int]], pattern: str = "{}/{}.tif") -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        for name, size in names.items():
            save(root / pattern.format(name, i), rng.integers(900, 3000, size).astype(np.uint16))
        save(root / f"label/{i}.png", label(0, 1))


def test_folders_of_bands_are_one_modality_the_finest_first(tmp_path: Path) -> None:
    half = (SIZE[0] // 2, SIZE[1] // 2)
    write(tmp_path, {"B01": half, "B02": SIZE, "B03": SIZE, "B04": SIZE, "B11": half})
    found = look(tmp_path)
    (settings,) = modalities(found).values()
    assert settings["files"] == [f"{band}/*.tif" for band in ("B02", "B01", "B03", "B04", "B11")]
    assert settings["channels"] == 5
    assert settings["show"] == [4, 3, 1]
    assert found.modalities[0].name == "bands"
    assert "the others are resized to it: B02 40x56, B01 20x28" in " ".join(found.modalities[0].reasons)
    sample = opened(found).dataset("train")[0]
    assert sample["inputs"]["bands"].shape == (5, *SIZE)
    assert not any("resized" in note for note in found.notes)


@pytest.mark.parametrize("pattern", ["scene/{1}_{0}.tif", "scene/{0}_{1}.tif"])
def test_bands_in_the_names_of_files(tmp_path: Path, pattern: str) -> None:
    names = [f"B{i:02d}" for i in range(1, 10)]
    write(tmp_path, dict.fromkeys(names, SIZE), pattern)
    (settings,) = modalities(look(tmp_path)).values()
    assert settings["files"] == [pattern.format(name, "*") for name in names]


def test_two_colours_are_sensors_of_their_own_three_are_bands(tmp_path: Path) -> None:
    write(tmp_path / "a", {"red": SIZE, "nir": SIZE})
    assert set(modalities(look(tmp_path / "a"))) == {"red", "nir"}
    write(tmp_path / "b", {"red": SIZE, "green": SIZE, "blue": SIZE, "nir": SIZE})
    (settings,) = modalities(look(tmp_path / "b")).values()
    assert settings["files"] == ["blue/*.tif", "green/*.tif", "red/*.tif", "nir/*.tif"]
    assert settings["show"] == [3, 2, 1]


def test_more_channels_than_a_modality_has_are_left_out_with_a_word(tmp_path: Path) -> None:
    write(tmp_path, {"thermal": SIZE})
    for i in range(4):
        save(tmp_path / f"wide/{i}.tif", np.full((80, 80, 65), i, np.uint16), planarconfig="contig")
    found = look(tmp_path)
    assert set(modalities(found)) == {"thermal"}
    assert any("wide/0.tif and others like it have 65 channels and are left out" in note for note in found.notes)


def test_what_labels_call_no_data_by_their_tag_is_void(tmp_path: Path) -> None:
    write(tmp_path, {"thermal": SIZE})
    for i in range(4):
        (tmp_path / f"label/{i}.png").unlink()
        tag = [(42113, "s", 0, "1", True)]
        save(tmp_path / f"label/{i}.tif", label(0, 1, 2), extratags=tag)
    found = look(tmp_path)
    assert [name for name, _ in found.classes] == ["class_0", "class_2"]
    assert found.label.settings["map"] == {0: 0, 2: 1}
    assert found.label.settings["ignore"] == [1, 255]
    assert "1 is void by the files' own tag (GDAL_NODATA)" in found.label.reasons


def test_a_tag_in_every_file_is_the_hole_value_unequal_ones_are_read_from_the_tags(tmp_path: Path) -> None:
    write(tmp_path, {"thermal": SIZE})
    for name, second in (("equal", -9999), ("unequal", -1)):
        for i in range(4):
            value = -9999 if i % 2 else second
            image = np.random.default_rng(i).normal(290, 5, SIZE).astype(np.float32)
            image[:3, :5] = value
            save(tmp_path / f"{name}/{i}.tif", image, extratags=[(42113, "s", 0, str(value), True)])
    settings = modalities(look(tmp_path))
    assert (settings["equal"]["hole_value"], settings["equal"]["dtype"]) == (-9999, "float32")
    assert (settings["unequal"]["hole_value"], settings["unequal"]["dtype"]) == ("nodata", "float32")
    assert settings["equal"]["scale"] == settings["unequal"]["scale"] == 500
