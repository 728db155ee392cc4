"""Mean and standard deviation of every channel, against NumPy over all values at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ktb.data.tools.new import moments
from ktb.data.tools.new.output import write_yaml
from tests.ktb.data.tools.new.folders import SIZE, label, look, opened
from tests.ktb.data.written import save


def bands(root: Path, count: int = 5) -> dict[str, np.ndarray]:
    """Five bands of unlike size, a hole in each picture; what the files of each sample hold."""
    rng = np.random.default_rng(0)
    stored = {}
    for i in range(count):
        image = (1e4 + 3 * rng.standard_normal((*SIZE, 5))) * (1, 1, 1, 0.001, 1)
        image[..., 2] = 20000
        image[i : i + 9, 3:20] = np.nan
        stored[str(i)] = image.astype(np.float32)
        save(root / f"spectral/{i}.tif", stored[str(i)], planarconfig="contig", compression="lzw", predictor=True)
        save(root / f"label/{i}.png", label(0, 1))
    return stored


@pytest.mark.parametrize("at_once", [1 << 20, 500])
def test_moments_are_those_of_all_measured_values_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(moments, "ROWS_AT_ONCE", at_once)
    stored = bands(tmp_path)
    found = look(tmp_path)
    data = opened(found)
    measured, failed, _ = moments.measure(data, ["spectral"], lambda outcomes, total, title: outcomes, 1)
    assert failed == []
    train = [stored[entry.id] for entry in data.open_split("train").entries]
    assert len(train) == 4
    values = np.concatenate([image[np.isfinite(image).all(axis=2)] for image in train]).astype(np.float64)
    seen = measured["spectral"]
    assert seen.count == len(values)
    np.testing.assert_allclose(seen.mean, values.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(seen.squares / seen.count), values.std(axis=0), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(seen.most, np.abs(values).max(axis=0))


def test_the_configuration_makes_the_training_split_zero_mean_and_unit_deviation(tmp_path: Path) -> None:
    bands(tmp_path / "data")
    found = look(tmp_path / "data")
    text = write_yaml(found, "mine", tmp_path / "conf", workers=1).read_text(encoding="utf-8")
    settings = yaml.safe_load(text)["modalities"]["spectral"]
    assert settings["scale"] == [20000, 20000, 20000, 20, 20000]
    assert settings["holes"] == "mean"
    assert "bands of unlike size are scaled one by one" in text
    assert "spectral: bands 3 are the same everywhere in the training split and say nothing (std: 1)" in found.notes
    data = opened(found)
    (spec,) = data.modalities
    values = []
    for i in range(4):
        sample = data.dataset("train")[i]
        x = spec.normalize(sample["inputs"]["spectral"][None])[0].numpy()
        raw = data.dataset("train").samples.read(i, ["spectral"])
        np.testing.assert_allclose(x[:, ~raw.valid["spectral"]], 0, atol=1e-4)
        values.append(x[:, raw.valid["spectral"]])
    together = np.concatenate(values, axis=1).astype(np.float64)
    np.testing.assert_allclose(together.mean(axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(together.std(axis=1), [1, 1, 0, 1, 1], atol=2e-3)


def test_a_file_that_cannot_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    bands(tmp_path / "data", 30)
    broken = tmp_path / "data/spectral/13.tif"
    found = look(tmp_path / "data")
    broken.write_bytes(broken.read_bytes()[:-9])
    write_yaml(found, "mine", tmp_path / "conf", workers=1)
    in_train = any(e.id == "13" for e in opened(found).open_split("train").entries)
    told = [note for note in found.notes if "1 training files are left out of mean and std" in note]
    assert [str(broken) in note and "TIFF cut short" in note for note in told] == [True] * in_train
    assert in_train


def test_files_in_another_unit_are_named(tmp_path: Path) -> None:
    for i in range(12):
        metres = np.random.default_rng(i).uniform(0.6, 8, SIZE).astype(np.float32)
        save(tmp_path / f"data/depth/{i:02}.npy", metres if i % 3 else (1000 * metres).astype(np.uint16))
        save(tmp_path / f"data/label/{i:02}.png", label(0, 1))
    found = look(tmp_path / "data")
    write_yaml(found, "mine", tmp_path / "conf", workers=1)
    (note,) = [note for note in found.notes if note.startswith("depth: files in two units or bit depths? ")]
    assert "(uint16; such as" in note
    assert "(float32; such as" in note
