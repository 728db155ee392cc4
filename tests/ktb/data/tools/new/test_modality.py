"""How the values of a modality are stored, against what was written into the files."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.survey import survey
from ktb.errors import DataError
from tests.ktb.data.tools.new.folders import SIZE, depth, guessed, label, look, modalities, opened, rgb
from tests.ktb.data.written import save


def test_no_rgb_at_all(tmp_path):
    twelve = [depth(i, 0, 4096, hole=None) for i in range(4)]
    twelve[0][0, :2] = 0, 4095
    found = guessed(tmp_path, {"red": [rgb(i)[..., 0] for i in range(4)], "nir": twelve})
    assert modalities(found) == {
        "nir": {"files": "nir/*.png", "dtype": "uint16", "scale": 4095},
        "red": {"files": "red/*.png"},
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda r: r.random(SIZE), {"dtype": "float32"}),
        (lambda r: r.normal(0, 8, SIZE), {"dtype": "float32", "scale": 50}),
        (lambda r: np.where(r.random(SIZE) < 0.1, np.nan, r.uniform(1, 9, SIZE)),
         {"dtype": "float32", "hole_value": pytest.approx(np.nan, nan_ok=True), "holes": "zero", "scale": 10}),
        (lambda r: np.where(r.random(SIZE) < 0.1, -9999, r.uniform(1, 9, SIZE)),
         {"dtype": "float32", "hole_value": -9999, "holes": "zero", "scale": 10}),
        # -1 is no measurement where all others are positive, and one where they are not.
        (lambda r: np.where(r.random(SIZE) < 0.1, -1, r.uniform(900, 3000, SIZE)),
         {"dtype": "float32", "hole_value": -1, "holes": "zero", "scale": 5000}),
        (lambda r: np.where(r.random(SIZE) < 0.1, -1, r.uniform(-0.9, 3, SIZE)), {"dtype": "float32", "scale": 5}),
        (lambda r: r.random((*SIZE, 2)), {"dtype": "float32", "channels": 2}),
        (lambda r: r.integers(0, 256, (*SIZE, 4)).astype(np.uint8), {"channels": 4}),
        (lambda r: r.integers(0, 60000, SIZE).astype(np.uint16), {"dtype": "uint16"}),
        (lambda r: r.integers(0, 1024, SIZE).astype(np.uint16).clip(0, 1023), {"dtype": "uint16", "scale": 1023}),
        # Zeros that other values lead up to are measurements.
        (lambda r: (r.random(SIZE) ** 4 * 4000).astype(np.uint16), {"dtype": "uint16", "scale": 5000}),
    ],
)  # fmt: skip
def test_types_scales_and_holes(tmp_path, values, expected):
    images = [values(np.random.default_rng(i)) for i in range(4)]
    found = guessed(tmp_path, {"sensor": images}, ".npy")
    assert modalities(found) == {"sensor": {"files": "sensor/*.npy"} | expected}
    sample = opened(found).dataset("train")[0]
    scaled = opened(found).modalities[0].normalize(sample["inputs"]["sensor"][None])
    assert float(scaled.abs().max()) <= 1.05


@pytest.mark.parametrize(
    ("arrays", "key"), [(("thermal", "range"), "range"), (("far", "near"), "far"), (("far",), "far")]
)
def test_one_of_several_arrays_in_each_file(tmp_path, arrays, key):
    for i in range(4):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
        (tmp_path / "range").mkdir(exist_ok=True)
        values = {name: depth(i, 100 * (n + 1), 4000 * (n + 1)) for n, name in enumerate(arrays)}
        np.savez(tmp_path / f"range/{i}.npz", pose=np.eye(3)[0], **values)
    found = look(tmp_path)
    guess = next(guess for guess in found.modalities if guess.name != "rgb")
    assert guess.settings["key"] == key
    others = [name for name in arrays if name != key]
    assert f"the array {key} of each file{', not ' * bool(others)}{' or '.join(others)}" in guess.reasons
    image = opened(found).dataset("train").samples.read(0, [guess.name]).images[guess.name]
    assert int(image.max()) > (4000 if key == "range" else 3000)


@pytest.mark.parametrize(
    ("most", "scale"), [(255, 255), (1000, 1023), (1023, 1023), (4080, 4095), (4096, 16383), (16384, None)]
)
def test_bits_that_sixteen_bit_colour_uses(tmp_path, most, scale):
    for i in range(3):
        image = (rgb(i) / 255 * most / 2).astype(np.uint16)
        image[i, 5] = most  # a single pixel
        save(tmp_path / f"rgb/{i}.npy", image)
        save(tmp_path / f"label/{i}.png", label(0, 1))
    found = look(tmp_path)
    assert modalities(found)["rgb"].get("scale") == scale
    assert any("bits of 16 are used" in reason for reason in found.modalities[0].reasons) == (scale is not None)
    image = opened(found).dataset("val")[0]["inputs"]["rgb"]
    assert image.max() == round(255 * most / (scale or 65535))


def test_colour_pictures_of_several_kinds(tmp_path):
    """Grey ones, one with alpha and one of 16 bits among them."""
    for i in range(6):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    save(tmp_path / "rgb/1.png", rgb(1)[..., 0])
    save(tmp_path / "rgb/2.png", np.dstack([rgb(2), np.full(SIZE, 200, np.uint8)]))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert (
        "grey pictures among them are taken as three equal channels, alpha is left out" in found.modalities[0].reasons
    )
    samples = opened(found).open_split("train")
    read = {e.id: samples.read(i, ["rgb"]).images["rgb"] for i, e in enumerate(samples.entries)}
    for i in set(read) & {"1", "2"}:
        np.testing.assert_array_equal(read[i], rgb(int(i))[..., :1].repeat(3, 2) if i == "1" else rgb(2))
    (tmp_path / "rgb/3.png").unlink()
    np.save(tmp_path / "rgb/3.npy", rgb(3).astype(np.uint16) * 257)
    (tmp_path / "rgb/3.npy").rename(tmp_path / "rgb/3.png")
    assert modalities(look(tmp_path)) == {"rgb": {"files": "rgb/*.png", "dtype": "uint16"}}


def test_larger_pictures_by_an_option(tmp_path):
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    pixels = SIZE[0] * SIZE[1]
    with pytest.raises(DataError, match=f"expected at most {pixels - 1}: .*--max-pixels of ktb-predict"):
        survey(tmp_path, workers=1, max_pixels=pixels - 1)
    found = survey(tmp_path, workers=2, max_pixels=pixels)
    written = yaml.safe_load(write_yaml(found, "large", tmp_path / "conf").read_text())
    assert written["max_pixels"] == opened(found).max_pixels == pixels


def test_grey_as_colour_is_one_channel(tmp_path):
    found = guessed(
        tmp_path, {"rgb": [rgb(i) for i in range(3)], "ir": [rgb(i)[..., :1].repeat(3, 2) for i in range(3)]}
    )
    assert modalities(found)["thermal"] == {"files": "ir/*.png", "pick": [0]}
    assert opened(found).dataset("train")[0]["inputs"]["thermal"].shape[0] == 1


@pytest.mark.parametrize("name", ["ir", "sensor"])
@pytest.mark.parametrize("alpha", [False, True])
def test_one_channel_saved_as_grey_and_as_colour(tmp_path, name, alpha):
    values = [rgb(i)[..., 0] for i in range(4)]
    full = [np.full_like(values[0], 255)] * alpha
    images = [np.dstack([v] * 3 + full) if i % 2 else v for i, v in enumerate(values)]
    found = guessed(tmp_path, {"rgb": [rgb(i + 9) for i in range(4)], name: images})
    stream = "thermal" if name == "ir" else "sensor"
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}, stream: {"files": f"{name}/*.png"}}
    assert found.modalities[1].reasons[0] == "1 channel of 8 bits, in some files saved as several equal ones"
    samples = opened(found).open_split("train")
    for i, entry in enumerate(samples.entries):
        np.testing.assert_array_equal(samples.read(i, [stream]).images[stream][..., 0], values[int(entry.id)])
    save(tmp_path / f"{name}/1.png", rgb(1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert any(
        f"{name}/0.png and others like it have 1 and 3 {'and 4 ' * alpha}channels and are left" in n
        for n in found.notes
    )


def test_one_channel_saved_both_ways_is_no_rgb(tmp_path):
    values = [rgb(i)[..., 0] for i in range(4)]
    found = guessed(tmp_path, {"camera": [v if i % 2 else np.dstack([v] * 3) for i, v in enumerate(values)]})
    assert modalities(found) == {"camera": {"files": "camera/*.png"}}


def test_a_fourth_channel_that_varies_is_another_sensor(tmp_path):
    rgba = [np.dstack([rgb(i), rgb(i + 9)[..., 0]]) for i in range(3)]
    found = guessed(tmp_path, {"images": rgba})
    assert modalities(found) == {
        "rgb": {"files": "images/*.png", "pick": [0, 1, 2]},
        "x": {"files": "images/*.png", "pick": [3]},
    }
    sample = opened(found).dataset("train")[0]
    np.testing.assert_array_equal(sample["inputs"]["x"][0], rgba[int(sample["id"])][..., 3])


def test_a_fourth_channel_of_transparent_and_opaque_is_alpha(tmp_path):
    alpha = np.where(np.arange(SIZE[0])[:, None] > 9, 255, 0).astype(np.uint8).repeat(SIZE[1], axis=1)
    found = guessed(tmp_path, {"images": [np.dstack([rgb(i), alpha]) for i in range(3)]})
    assert modalities(found) == {"rgb": {"files": "images/*.png", "pick": [0, 1, 2]}}
